-- A verification of rows (custody verify): every row is judged, and its wrap opened, by whoever has the KEKs.
-- Nothing is written, and nothing is locked, so that a standby answers as well.

-- The role of whoever verifies: it reads the audit as custody_audit does, and the wraps of all rows, which that
-- one does not. Where it can't be made, the owner verifies.
DO $$
BEGIN
    IF to_regrole('custody_verify') IS NULL THEN
        BEGIN
            CREATE ROLE custody_verify NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB;
        EXCEPTION
            -- Another database of this cluster is being migrated at this moment.
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'there is no role custody_verify; an administrator may make one: CREATE ROLE custody_verify NOLOGIN IN ROLE custody_audit; then run sql/migrations again by psql';
        END;
    END IF;
    IF to_regrole('custody_verify') IS NOT NULL AND to_regrole('custody_audit') IS NOT NULL
       AND NOT pg_has_role('custody_verify', 'custody_audit', 'MEMBER') THEN
        BEGIN
            GRANT custody_audit TO custody_verify;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege OR invalid_grant_operation THEN
                RAISE NOTICE 'custody_verify does not read the audit; an administrator may run: GRANT custody_audit TO custody_verify';
        END;
    END IF;
END
$$;

-- How many rows there are of each kek_id, and some of them at random: the first so many in the order of a hash
-- that the seed decides, so that each row of a kek_id is as likely as another, and a seed chooses the same
-- rows again. Those without a wrap by the server are together, under NULL.
CREATE OR REPLACE FUNCTION auth.custody_choose_rows(most INTEGER, seed BIGINT)
    RETURNS TABLE (kek_id TEXT, count BIGINT, users TEXT[])
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('custody.scans_kek_ids', 'on', true);
    RETURN QUERY
        WITH counted (kek_id, count) AS (
            SELECT CASE WHEN vault.wrapped_mk IS NOT NULL THEN vault.kek_id END, count(*)
            FROM auth.encryption_vaults AS vault GROUP BY 1
        )
        SELECT counted.kek_id, counted.count,
               CASE WHEN counted.kek_id IS NULL THEN ARRAY(
                   SELECT vault.user_id FROM auth.encryption_vaults AS vault
                   WHERE vault.wrapped_mk IS NULL OR vault.kek_id IS NULL
                   ORDER BY hashtextextended(vault.user_id, seed), vault.user_id LIMIT most
               ) ELSE ARRAY(
                   SELECT vault.user_id FROM auth.encryption_vaults AS vault
                   WHERE vault.wrapped_mk IS NOT NULL AND vault.kek_id = counted.kek_id
                   ORDER BY hashtextextended(vault.user_id, seed), vault.user_id LIMIT most
               ) END
        FROM counted ORDER BY counted.kek_id;
    PERFORM set_config('custody.scans_kek_ids', '', true);
END
$$;

-- Whose rows there are: of so many parts of about the same size one. A page above a user would be read from
-- the beginning each time: where a policy is in force, only an equality goes by the index.
CREATE OR REPLACE FUNCTION auth.custody_list_rows(part INTEGER, parts INTEGER) RETURNS SETOF TEXT
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('custody.scans_kek_ids', 'on', true);
    RETURN QUERY
        SELECT vault.user_id FROM auth.encryption_vaults AS vault
        WHERE (hashtextextended(vault.user_id, 0) & 9223372036854775807) % parts = part;
    PERFORM set_config('custody.scans_kek_ids', '', true);
END
$$;

-- The rows of some users, with all that a seal is made of, and the wrap. Of a recovery wrap a digest, as in
-- custody_read_states, and whether it can be one at all: 48 bytes and 12, in base64.
CREATE OR REPLACE FUNCTION auth.custody_read_rows(users TEXT[])
    RETURNS TABLE (user_id TEXT, wrapped_mk TEXT, wrap_iv TEXT, format_version SMALLINT, kek_id TEXT,
                   generation BIGINT, zero_knowledge BOOLEAN, key_check TEXT, recovery_digest TEXT,
                   recovery_is_formed BOOLEAN, recovery_format_version SMALLINT,
                   recovery_set_at TIMESTAMPTZ, seal TEXT, seal_serial BIGINT)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('custody.scans_kek_ids', 'on', true);
    RETURN QUERY
        SELECT vault.user_id, vault.wrapped_mk, vault.wrap_iv, vault.format_version, vault.kek_id,
               vault.generation, vault.zero_knowledge, vault.key_check,
               CASE WHEN vault.recovery_wrapped_mk IS NOT NULL THEN
                   encode(sha256(convert_to(
                       format('%s:%s%s:%s',
                              octet_length(vault.recovery_wrapped_mk), vault.recovery_wrapped_mk,
                              octet_length(vault.recovery_iv), vault.recovery_iv),
                       'UTF8')), 'hex')
               END,
               coalesce(vault.recovery_wrapped_mk ~ '^[A-Za-z0-9+/]{64}$'
                        AND vault.recovery_iv ~ '^[A-Za-z0-9+/]{16}$', false),
               vault.recovery_format_version, vault.recovery_set_at, vault.seal, vault.seal_serial
        FROM auth.encryption_vaults AS vault
        WHERE vault.user_id = ANY (users);
    PERFORM set_config('custody.scans_kek_ids', '', true);
END
$$;

REVOKE ALL ON FUNCTION
        auth.custody_choose_rows(INTEGER, BIGINT),
        auth.custody_list_rows(INTEGER, INTEGER),
        auth.custody_read_rows(TEXT[])
    FROM PUBLIC;
DO $$
BEGIN
    IF to_regrole('custody_verify') IS NOT NULL THEN
        GRANT EXECUTE ON FUNCTION
                auth.custody_choose_rows(INTEGER, BIGINT),
                auth.custody_list_rows(INTEGER, INTEGER),
                auth.custody_read_rows(TEXT[])
            TO custody_verify;
    END IF;
END
$$;
