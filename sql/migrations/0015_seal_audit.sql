-- The audit is sealed: checkpoints over all of its rows, which nobody can make who has no data key. Each
-- row has a number, in the order in which rows were written, and a seal by the daemon that wrote it.

-- The role of whoever reads the audit: an export, a verification. Where it can't be made, the owner reads.
DO $$
BEGIN
    IF to_regrole('custody_audit') IS NULL THEN
        BEGIN
            CREATE ROLE custody_audit NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB;
        EXCEPTION
            -- Another database of this cluster is being migrated at this moment.
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'there is no role custody_audit; an administrator may make one: CREATE ROLE custody_audit NOLOGIN; then run sql/migrations again by psql';
        END;
    END IF;
END
$$;

-- A row's number is drawn while its transaction holds the table's lock for writers: what
-- custody_audit_horizon says rests on that, and on a sequence without a cache. Rows that are there get
-- theirs now, which writes the table anew.
DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_attribute
                   WHERE attrelid = 'auth.encryption_vault_audit'::regclass AND attname = 'number'
                       AND NOT attisdropped) THEN
        ALTER TABLE auth.encryption_vault_audit ADD COLUMN number BIGINT GENERATED ALWAYS AS IDENTITY;
    END IF;
END
$$;
ALTER TABLE auth.encryption_vault_audit
    ADD COLUMN IF NOT EXISTS state TEXT,
    ADD COLUMN IF NOT EXISTS seal BYTEA;

COMMENT ON COLUMN auth.encryption_vault_audit.number IS 'The order of rows; has gaps where a transaction was not committed';
COMMENT ON COLUMN auth.encryption_vault_audit.state IS 'Of a change: digest of the state in which it left the vault; erased: of none';
COMMENT ON COLUMN auth.encryption_vault_audit.seal IS
    'Made by the daemon that wrote the row: 4 bytes that name its key, 16 of a keyed hash of address and user agent, 16 of a MAC of all the rest; NULL: it had no data key';

CREATE UNIQUE INDEX IF NOT EXISTS encryption_vault_audit_number_idx
    ON auth.encryption_vault_audit (number);
-- What happened to a user, the newest first; and what the last change left.
DROP INDEX IF EXISTS auth.encryption_vault_audit_user_created_idx;
CREATE INDEX IF NOT EXISTS encryption_vault_audit_user_number_idx
    ON auth.encryption_vault_audit (user_id, number);
CREATE INDEX IF NOT EXISTS encryption_vault_audit_state_idx
    ON auth.encryption_vault_audit (user_id, number) WHERE state IS NOT NULL;

GRANT INSERT (state, seal) ON auth.encryption_vault_audit TO custody_app, custody_rewrap;
-- A user reads the own rows, by the policy encryption_vault_audit_own_row.
GRANT SELECT (number, id, user_id, action, ip_address, user_agent, context, status, created_at)
    ON auth.encryption_vault_audit TO custody_app;

CREATE TABLE IF NOT EXISTS auth.encryption_audit_checkpoints (
    number      BIGINT PRIMARY KEY,
    size        BIGINT NOT NULL,
    last_row    BIGINT NOT NULL,
    hashes      BYTEA NOT NULL,
    note        TEXT NOT NULL,
    made_at     TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON TABLE auth.encryption_audit_checkpoints IS 'Signed heads of the Merkle tree over the audit''s rows';
COMMENT ON COLUMN auth.encryption_audit_checkpoints.size IS 'How many rows are under it';
COMMENT ON COLUMN auth.encryption_audit_checkpoints.last_row IS 'All rows up to this number are under it';
COMMENT ON COLUMN auth.encryption_audit_checkpoints.hashes IS 'The roots of the whole subtrees, 32 bytes each, the largest first: what the next one goes on from';
COMMENT ON COLUMN auth.encryption_audit_checkpoints.note IS 'C2SP tlog-checkpoint as a signed note';

REVOKE ALL ON auth.encryption_audit_checkpoints FROM PUBLIC, custody_app, custody_rewrap;
GRANT SELECT ON auth.encryption_audit_checkpoints TO custody_app;

-- The owner is under FORCE as well: it and custody_audit see all rows while they say that they read.
DO $$
DECLARE
    readers TEXT := concat_ws(', ', CASE WHEN to_regrole('custody_audit') IS NOT NULL THEN 'custody_audit' END,
                              'CURRENT_USER');
BEGIN
    DROP POLICY IF EXISTS encryption_vault_audit_all ON auth.encryption_vault_audit;
    EXECUTE format('CREATE POLICY encryption_vault_audit_all ON auth.encryption_vault_audit
                        FOR SELECT TO %s
                        USING ((SELECT current_setting(''custody.reads_audit'', true)) = ''on'')', readers);
    IF to_regrole('custody_audit') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA auth TO custody_audit;
        GRANT SELECT ON auth.encryption_vault_audit, auth.encryption_audit_checkpoints,
            auth.encryption_data_keys, auth.encryption_data_key_wraps, auth.encryption_keks,
            auth.custody_marks TO custody_audit;
    END IF;
END
$$;

-- As in 0009, with the state and the seal, in hexadecimal.
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
        (id, user_id, action, ip_address, user_agent, context, status, state, seal)
    SELECT id, user_id, action, ip_address, user_agent, context, status, state, decode(seal, 'hex')
    FROM json_to_recordset(events)
        AS given (id TEXT, user_id TEXT, action TEXT, ip_address TEXT, user_agent TEXT,
                  context TEXT, status INTEGER, state TEXT, seal TEXT)
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

-- The highest number that was drawn until now, and who writes to the audit at this moment. Once all of
-- these have ended, no row of that number or a lower one can come any more. For a number is drawn with the
-- table's lock held, which a transaction keeps until its rows are seen, or never are. Clocks play no part.
CREATE OR REPLACE FUNCTION auth.custody_audit_horizon(OUT number BIGINT, OUT writers TEXT[])
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- In this order: whoever draws one after the first statement draws a higher one.
    SELECT CASE WHEN drawn.is_called THEN drawn.last_value ELSE 0 END INTO number
        FROM auth.encryption_vault_audit_number_seq AS drawn;
    writers := ARRAY(
        SELECT DISTINCT lock.virtualtransaction FROM pg_locks AS lock
        WHERE lock.locktype = 'relation' AND lock.granted
            AND lock.relation = 'auth.encryption_vault_audit'::regclass
            AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND lock.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                              'AccessExclusiveLock'));
END
$$;

-- The leaf hashes of a page of rows (RFC 6962, section 2.1), 32 bytes each, in the order of numbers. The page
-- ends with last_row: at most so many numbers further, of which some may have no row. What a
-- leaf is made of: a byte of zero, and the row as PostgreSQL sends a composite. Address and user agent are
-- in it by their keyed hash, which is part of the seal; only where a row has none, as they are.
-- Whoever runs it learns nothing of a row: its seal is in the hash, and nobody can guess that.
CREATE OR REPLACE FUNCTION auth.custody_audit_leaves(
        above BIGINT, up_to BIGINT, most INTEGER,
        OUT last_row BIGINT, OUT count BIGINT, OUT leaves BYTEA)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('custody.reads_audit', 'on', true);
    last_row := least(up_to, above + most);
    SELECT count(*), coalesce(string_agg(page.leaf, '' ORDER BY page.number), '')
    INTO count, leaves
    FROM (
        SELECT audit.number,
               sha256('\x00'::bytea || record_send(ROW(
                   audit.number, audit.id, audit.user_id, audit.action, audit.context, audit.status,
                   audit.created_at, audit.state, audit.seal,
                   CASE WHEN audit.seal IS NULL THEN audit.ip_address END,
                   CASE WHEN audit.seal IS NULL THEN audit.user_agent END))) AS leaf
        FROM auth.encryption_vault_audit AS audit
        WHERE audit.number > above AND audit.number <= last_row
    ) AS page;
    PERFORM set_config('custody.reads_audit', '', true);
END
$$;

-- Adds a checkpoint behind the last one. Of two that come at once the second one is not added.
CREATE OR REPLACE FUNCTION auth.custody_add_audit_checkpoint(
        behind BIGINT, its_size BIGINT, its_last_row BIGINT, its_hashes BYTEA, its_note TEXT)
    RETURNS BOOLEAN
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    INSERT INTO auth.encryption_audit_checkpoints (number, size, last_row, hashes, note)
        SELECT behind + 1, its_size, its_last_row, its_hashes, its_note
        WHERE behind = coalesce((SELECT max(there.number) FROM auth.encryption_audit_checkpoints AS there), 0)
        ON CONFLICT DO NOTHING;
    RETURN FOUND;
END
$$;

-- A page of what is to be compared, in the order of users: the state in which the last audited change left
-- a vault, and all of a vault that such a state is made of. There may be the one without the other.
CREATE OR REPLACE FUNCTION auth.custody_read_states(above TEXT, most INTEGER)
    RETURNS TABLE (user_id TEXT, state TEXT, number BIGINT, has_vault BOOLEAN, generation BIGINT,
                   zero_knowledge BOOLEAN, key_check TEXT, recovery_digest TEXT,
                   recovery_format_version SMALLINT, recovery_set_at TIMESTAMPTZ, has_wrap BOOLEAN)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('custody.reads_audit', 'on', true), set_config('custody.scans_kek_ids', 'on', true);
    RETURN QUERY
        WITH RECURSIVE audited (user_id) AS (
            (SELECT audit.user_id FROM auth.encryption_vault_audit AS audit
             WHERE audit.state IS NOT NULL AND audit.user_id > above ORDER BY audit.user_id LIMIT 1)
            UNION ALL
            SELECT (SELECT audit.user_id FROM auth.encryption_vault_audit AS audit
                    WHERE audit.state IS NOT NULL AND audit.user_id > audited.user_id
                    ORDER BY audit.user_id LIMIT 1)
            FROM audited WHERE audited.user_id IS NOT NULL
        ),
        users (user_id) AS (
            SELECT either.user_id FROM (
                (SELECT audited.user_id FROM audited WHERE audited.user_id IS NOT NULL LIMIT most)
                UNION
                (SELECT vault.user_id FROM auth.encryption_vaults AS vault
                 WHERE vault.user_id > above ORDER BY vault.user_id LIMIT most)
            ) AS either ORDER BY either.user_id LIMIT most
        )
        SELECT users.user_id, last.state, last.number, vault.user_id IS NOT NULL, vault.generation,
               vault.zero_knowledge, vault.key_check,
               CASE WHEN vault.recovery_wrapped_mk IS NOT NULL THEN
                   encode(sha256(convert_to(
                       format('%s:%s%s:%s',
                              octet_length(vault.recovery_wrapped_mk), vault.recovery_wrapped_mk,
                              octet_length(vault.recovery_iv), vault.recovery_iv),
                       'UTF8')), 'hex')
               END,
               vault.recovery_format_version, vault.recovery_set_at, vault.wrapped_mk IS NOT NULL
        FROM users
        LEFT JOIN LATERAL (
            SELECT audit.state, audit.number FROM auth.encryption_vault_audit AS audit
            WHERE audit.user_id = users.user_id AND audit.state IS NOT NULL
            ORDER BY audit.number DESC LIMIT 1
        ) AS last ON true
        LEFT JOIN auth.encryption_vaults AS vault ON vault.user_id = users.user_id
        ORDER BY users.user_id;
    PERFORM set_config('custody.reads_audit', '', true), set_config('custody.scans_kek_ids', '', true);
END
$$;

REVOKE ALL ON FUNCTION
        auth.custody_record_events(DOUBLE PRECISION, JSON),
        auth.custody_audit_horizon(),
        auth.custody_audit_leaves(BIGINT, BIGINT, INTEGER),
        auth.custody_add_audit_checkpoint(BIGINT, BIGINT, BIGINT, BYTEA, TEXT),
        auth.custody_read_states(TEXT, INTEGER)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.custody_record_events(DOUBLE PRECISION, JSON) TO custody_app;
GRANT EXECUTE ON FUNCTION
        auth.custody_audit_horizon(),
        auth.custody_audit_leaves(BIGINT, BIGINT, INTEGER),
        auth.custody_add_audit_checkpoint(BIGINT, BIGINT, BIGINT, BYTEA, TEXT)
    TO custody_app;
DO $$
BEGIN
    IF to_regrole('custody_audit') IS NOT NULL THEN
        GRANT EXECUTE ON FUNCTION auth.custody_audit_horizon(), auth.custody_read_states(TEXT, INTEGER)
            TO custody_audit;
    END IF;
END
$$;
