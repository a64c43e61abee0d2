-- The vaults of some users are read, and their audit rows written, by one statement each, not by a
-- loop with a statement for each row: that takes half and two thirds of the time.

-- The vaults of some users, one row for each place in the list, in its order.
-- clock: what the database's clock said (seconds since 1970) after the statement had arrived.
-- known: whether the user may have a vault, as sql/queries/find_user.sql says it.
--
-- Why row-level security judges each row in the scope of its own user: a lateral subquery with an
-- OFFSET stays one, and is run when it has the values that it names. The scans name scope.user_id,
-- which is what set_config has returned: it was called for this user before them, and is called for
-- the next one when they have ended. What a scan found may be taken from a cache (Memoize) for the
-- same user again, and is the same. That set_config's own result is not, scope names the place, which
-- no other row has. Were it ever otherwise, the policy would hide a row, and the daemon find none.
CREATE OR REPLACE FUNCTION auth.custody_read_vaults(wanted TEXT[])
    RETURNS TABLE (place INTEGER, clock DOUBLE PRECISION, known BOOLEAN, user_id TEXT,
                   wrapped_mk TEXT, wrap_iv TEXT, format_version SMALLINT, kek_id TEXT,
                   recovery_wrapped_mk TEXT, recovery_iv TEXT, recovery_format_version SMALLINT,
                   recovery_set_at TIMESTAMPTZ, zero_knowledge BOOLEAN, generation BIGINT,
                   key_check TEXT, row_version BIGINT)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('lock_timeout', '2000', true);
    RETURN QUERY
        SELECT asked.place::integer, extract(epoch FROM clock_timestamp())::double precision,
               CASE WHEN vault.user_id IS NOT NULL OR users.known THEN true
                    ELSE coalesce(obj_description('auth.users'::regclass, 'pg_class') LIKE 'custody:%',
                                  false)
               END,
               vault.user_id, vault.wrapped_mk, vault.wrap_iv, vault.format_version, vault.kek_id,
               vault.recovery_wrapped_mk, vault.recovery_iv, vault.recovery_format_version,
               vault.recovery_set_at, vault.zero_knowledge, vault.generation, vault.key_check,
               vault.row_version
        FROM unnest(wanted) WITH ORDINALITY AS asked (user_id, place)
        CROSS JOIN LATERAL (
            SELECT set_config('app.current_user_id', asked.user_id, true) AS user_id
            WHERE asked.place IS NOT NULL OFFSET 0
        ) AS scope
        LEFT JOIN LATERAL (
            SELECT * FROM auth.encryption_vaults AS own WHERE own.user_id = scope.user_id OFFSET 0
        ) AS vault ON true
        LEFT JOIN LATERAL (
            SELECT true AS known FROM auth.users AS own
            WHERE own.id = scope.user_id AND vault.user_id IS NULL OFFSET 0
        ) AS users ON true;
    PERFORM set_config('app.current_user_id', '', true);
END
$$;

DROP FUNCTION IF EXISTS auth.custody_record_events(
    DOUBLE PRECISION, TEXT[], TEXT[], TEXT[], TEXT[], TEXT[], TEXT[], INTEGER[]);

-- The audit rows of some actions; all of them are committed, or none.
-- deadline: the earliest of these requests, on the database's own clock (seconds since 1970). The
-- trigger of 0004 holds the COMMIT to it.
-- events: an array of objects with the columns id, user_id, action, ip_address, user_agent, context
-- and status.
-- Raises an integrity_constraint_violation where one of them is not on record, because its id was
-- there before or something took the row away.
CREATE OR REPLACE FUNCTION auth.custody_record_events(deadline DOUBLE PRECISION, events JSON)
    RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    recorded BIGINT;
BEGIN
    PERFORM set_config('app.deadline', deadline::numeric::text, true),
            set_config('lock_timeout', '2000', true),
            -- A key may leave once its audit row is committed, so committed must mean on disk.
            set_config('synchronous_commit',
                       CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                            ELSE current_setting('synchronous_commit') END, true);
    -- The scope of each row's own user is opened when the row is taken, and row-level security
    -- checks the row before the next one is taken. Were it ever otherwise, the check would refuse.
    INSERT INTO auth.encryption_vault_audit
        (id, user_id, action, ip_address, user_agent, context, status)
    SELECT id, user_id, action, ip_address, user_agent, context, status
    FROM json_to_recordset(events)
        AS given (id TEXT, user_id TEXT, action TEXT, ip_address TEXT, user_agent TEXT,
                  context TEXT, status INTEGER)
    WHERE set_config('app.current_user_id', user_id, true) IS NOT NULL
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS recorded = ROW_COUNT;
    IF recorded <> json_array_length(events) THEN
        RAISE EXCEPTION 'of % audit rows % were recorded', json_array_length(events), recorded
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    PERFORM set_config('app.current_user_id', '', true);
END
$$;

REVOKE ALL ON FUNCTION auth.custody_record_events(DOUBLE PRECISION, JSON) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.custody_record_events(DOUBLE PRECISION, JSON) TO custody_app;
