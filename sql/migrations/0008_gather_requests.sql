-- What concurrent requests ask goes to the database together: one statement, one transaction, one
-- round trip. Each function takes its users in turn and opens the scope of exactly that user for
-- exactly that row, so row-level security judges every row as if the user had come alone. Both run
-- with the rights of the caller.

-- The vaults of some users, one row for each place in the list, in its order.
-- clock: what the database's clock said (seconds since 1970) after the statement had arrived.
-- known: whether the user may have a vault, as sql/queries/find_user.sql says it.
CREATE OR REPLACE FUNCTION auth.custody_read_vaults(wanted TEXT[])
    RETURNS TABLE (place INTEGER, clock DOUBLE PRECISION, known BOOLEAN, user_id TEXT,
                   wrapped_mk TEXT, wrap_iv TEXT, format_version SMALLINT, kek_id TEXT,
                   recovery_wrapped_mk TEXT, recovery_iv TEXT, recovery_format_version SMALLINT,
                   recovery_set_at TIMESTAMPTZ, zero_knowledge BOOLEAN, generation BIGINT,
                   key_check TEXT, row_version BIGINT)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asked TEXT;
BEGIN
    PERFORM set_config('lock_timeout', '2000', true);
    place := 0;
    clock := extract(epoch FROM clock_timestamp());
    FOREACH asked IN ARRAY wanted LOOP
        place := place + 1;
        PERFORM set_config('app.current_user_id', asked, true);
        RETURN QUERY
            SELECT place, clock, true, vault.user_id, vault.wrapped_mk, vault.wrap_iv,
                   vault.format_version, vault.kek_id, vault.recovery_wrapped_mk,
                   vault.recovery_iv, vault.recovery_format_version, vault.recovery_set_at,
                   vault.zero_knowledge, vault.generation, vault.key_check, vault.row_version
            FROM auth.encryption_vaults AS vault WHERE vault.user_id = asked;
        IF NOT FOUND THEN
            known := coalesce(obj_description('auth.users'::regclass, 'pg_class') LIKE 'custody:%', false)
                     OR EXISTS (SELECT 1 FROM auth.users WHERE id = asked);
            RETURN NEXT;
        END IF;
    END LOOP;
    PERFORM set_config('app.current_user_id', '', true);
END
$$;

-- The audit rows of some actions; all of them are committed, or none.
-- deadline: the earliest of these requests, on the database's own clock (seconds since 1970). The
-- trigger of 0004 holds the COMMIT to it.
-- Returns for each whether it is on record now; false where its id was there before.
CREATE OR REPLACE FUNCTION auth.custody_record_events(
    deadline DOUBLE PRECISION, ids TEXT[], users TEXT[], actions TEXT[], ip_addresses TEXT[],
    user_agents TEXT[], contexts TEXT[], statuses INTEGER[]
)
    RETURNS BOOLEAN[]
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    event RECORD;
    recorded BOOLEAN[] := '{}';
BEGIN
    PERFORM set_config('app.deadline', deadline::numeric::text, true),
            set_config('lock_timeout', '2000', true),
            -- A key may leave once its audit row is committed, so committed must mean on disk.
            set_config('synchronous_commit',
                       CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                            ELSE current_setting('synchronous_commit') END, true);
    FOR event IN
        SELECT * FROM unnest(ids, users, actions, ip_addresses, user_agents, contexts, statuses)
            AS given (id, user_id, action, ip_address, user_agent, context, status)
    LOOP
        PERFORM set_config('app.current_user_id', event.user_id, true);
        INSERT INTO auth.encryption_vault_audit
            (id, user_id, action, ip_address, user_agent, context, status)
        VALUES (event.id, event.user_id, event.action, event.ip_address, event.user_agent,
                event.context, event.status)
        ON CONFLICT DO NOTHING;
        recorded := recorded || FOUND;
    END LOOP;
    PERFORM set_config('app.current_user_id', '', true);
    RETURN recorded;
END
$$;

REVOKE ALL ON FUNCTION auth.custody_read_vaults(TEXT[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION auth.custody_record_events(
    DOUBLE PRECISION, TEXT[], TEXT[], TEXT[], TEXT[], TEXT[], TEXT[], INTEGER[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.custody_read_vaults(TEXT[]) TO custody_app;
GRANT EXECUTE ON FUNCTION auth.custody_record_events(
    DOUBLE PRECISION, TEXT[], TEXT[], TEXT[], TEXT[], TEXT[], TEXT[], INTEGER[]) TO custody_app;
