-- A rotation that loses nothing: the master key before stays beside the live one until the client has
-- re-encrypted all. It is wrapped under a key that is derived from the live master key, not under a KEK, so
-- nothing that moves wraps (re-wraps, retired KEKs, ended data keys) has to know of it (docs/adr).

ALTER TABLE auth.encryption_vaults
    ADD COLUMN IF NOT EXISTS previous_wrapped_mk TEXT,
    ADD COLUMN IF NOT EXISTS previous_wrap_iv TEXT,
    ADD COLUMN IF NOT EXISTS previous_generation BIGINT;

COMMENT ON COLUMN auth.encryption_vaults.previous_wrapped_mk IS 'While a rotation is pending: the master key before, under the live one';
COMMENT ON COLUMN auth.encryption_vaults.previous_wrap_iv IS 'Its nonce, in base64';
COMMENT ON COLUMN auth.encryption_vaults.previous_generation IS 'The generation that it was the master key of';

-- All of it or nothing.
ALTER TABLE auth.encryption_vaults DROP CONSTRAINT IF EXISTS encryption_vaults_previous_pair;
ALTER TABLE auth.encryption_vaults ADD CONSTRAINT encryption_vaults_previous_pair
    CHECK ((previous_wrapped_mk IS NULL) = (previous_wrap_iv IS NULL)
       AND (previous_wrapped_mk IS NULL) = (previous_generation IS NULL));

-- Beside a live one that the server holds, and older than that.
ALTER TABLE auth.encryption_vaults DROP CONSTRAINT IF EXISTS encryption_vaults_previous_consistency;
ALTER TABLE auth.encryption_vaults ADD CONSTRAINT encryption_vaults_previous_consistency
    CHECK (previous_wrapped_mk IS NULL OR (wrapped_mk IS NOT NULL AND previous_generation < generation));

-- The worker has nothing to do with it.
GRANT UPDATE (previous_wrapped_mk, previous_wrap_iv, previous_generation)
    ON auth.encryption_vaults TO custody_app;

-- As in 0012, and the previous key is sealed, too.
CREATE OR REPLACE FUNCTION auth.custody_keep_seal() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed BOOLEAN := (NEW.generation, NEW.zero_knowledge, NEW.key_check, NEW.recovery_wrapped_mk,
                        NEW.recovery_iv, NEW.recovery_format_version, NEW.recovery_set_at,
                        NEW.wrapped_mk IS NULL,
                        NEW.previous_wrapped_mk, NEW.previous_wrap_iv, NEW.previous_generation)
        IS DISTINCT FROM (OLD.generation, OLD.zero_knowledge, OLD.key_check, OLD.recovery_wrapped_mk,
                          OLD.recovery_iv, OLD.recovery_format_version, OLD.recovery_set_at,
                          OLD.wrapped_mk IS NULL,
                          OLD.previous_wrapped_mk, OLD.previous_wrap_iv, OLD.previous_generation);
BEGIN
    -- least: a format of nobody's, planted, must not lock honest writers out.
    IF NEW.format_version < least(OLD.format_version, 3) THEN
        RAISE EXCEPTION 'the format of a wrap never falls' USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.key_check IS NOT NULL AND NEW.key_check IS NULL THEN
        RAISE EXCEPTION 'a key check value is never taken away' USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.seal IS NOT NULL AND NEW.seal IS NULL THEN
        RAISE EXCEPTION 'a seal is never taken away' USING ERRCODE = 'restrict_violation';
    END IF;
    -- It is wrapped under the live key: with that it goes, and it is replaced by no other.
    IF (NEW.generation, NEW.previous_wrapped_mk, NEW.previous_wrap_iv, NEW.previous_generation)
       IS DISTINCT FROM (OLD.generation, OLD.previous_wrapped_mk, OLD.previous_wrap_iv, OLD.previous_generation)
       AND OLD.previous_wrapped_mk IS NOT NULL AND NEW.previous_wrapped_mk IS NOT NULL THEN
        RAISE EXCEPTION 'while a rotation is pending, neither of its keys is replaced'
            USING ERRCODE = 'restrict_violation';
    END IF;
    -- In a transaction of a daemon, which has a deadline: one of before, in the seconds until it notices
    -- the new schema, or a defect. Whoever else does it has a row that nobody believes.
    IF OLD.seal IS NOT NULL AND changed AND NEW.seal = OLD.seal
       AND nullif(current_setting('app.deadline', true), '') IS NOT NULL THEN
        RAISE EXCEPTION 'a sealed row was changed without a new seal' USING ERRCODE = 'restrict_violation';
    END IF;
    IF row_security_active(TG_RELID) THEN
        IF NEW.wrapped_mk IS NOT NULL AND NEW.format_version < 3
           AND (NEW.wrapped_mk, NEW.wrap_iv, NEW.kek_id)
               IS DISTINCT FROM (OLD.wrapped_mk, OLD.wrap_iv, OLD.kek_id) THEN
            RAISE EXCEPTION 'a wrap of an old format is never written' USING ERRCODE = 'restrict_violation';
        END IF;
        NEW.seal_serial := OLD.seal_serial + (changed OR NEW.seal IS DISTINCT FROM OLD.seal)::integer;
    END IF;
    RETURN NEW;
END
$$;

-- What shows rows shows it as well. Under names of their own, since the columns of a function can't change in
-- place.

-- As custody_find_vaults of 0011 (0009 says why each row is judged in the scope of its own user).
DROP FUNCTION IF EXISTS auth.custody_find_vaults(TEXT[]);
CREATE OR REPLACE FUNCTION auth.custody_load_vaults(wanted TEXT[])
    RETURNS TABLE (place INTEGER, clock DOUBLE PRECISION, known BOOLEAN, user_id TEXT,
                   wrapped_mk TEXT, wrap_iv TEXT, format_version SMALLINT, kek_id TEXT,
                   recovery_wrapped_mk TEXT, recovery_iv TEXT, recovery_format_version SMALLINT,
                   recovery_set_at TIMESTAMPTZ, zero_knowledge BOOLEAN, generation BIGINT,
                   key_check TEXT, previous_wrapped_mk TEXT, previous_wrap_iv TEXT, previous_generation BIGINT,
                   seal TEXT, seal_serial BIGINT, row_version BIGINT)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('lock_timeout', '2000', true);
    RETURN QUERY
        SELECT asked.place::integer, extract(epoch FROM clock_timestamp())::double precision,
               CASE WHEN vault.user_id IS NOT NULL OR users.known THEN true
                    ELSE EXISTS (SELECT 1 FROM auth.custody_marks WHERE table_name = 'users' AND ours)
               END,
               vault.user_id, vault.wrapped_mk, vault.wrap_iv, vault.format_version, vault.kek_id,
               vault.recovery_wrapped_mk, vault.recovery_iv, vault.recovery_format_version,
               vault.recovery_set_at, vault.zero_knowledge, vault.generation, vault.key_check,
               vault.previous_wrapped_mk, vault.previous_wrap_iv, vault.previous_generation,
               vault.seal, vault.seal_serial, vault.row_version
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

-- As custody_read_sealed_before of 0016. Of the previous key a digest, as it goes into the seal.
DROP FUNCTION IF EXISTS auth.custody_read_sealed_before(TEXT, TEXT, TEXT, TIMESTAMPTZ, INTEGER);
CREATE OR REPLACE FUNCTION auth.custody_load_sealed_before(
        its_key TEXT, above TEXT, up_to TEXT, began TIMESTAMPTZ, most INTEGER)
    RETURNS TABLE (user_id TEXT, wrapped_mk TEXT, wrap_iv TEXT, format_version SMALLINT, kek_id TEXT,
                   generation BIGINT, zero_knowledge BOOLEAN, key_check TEXT, recovery_digest TEXT,
                   recovery_format_version SMALLINT, recovery_set_at TIMESTAMPTZ,
                   previous_digest TEXT, previous_generation BIGINT, seal TEXT,
                   seal_serial BIGINT, row_version BIGINT, is_set_aside BOOLEAN)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET enable_sort = off AS $$
#variable_conflict use_column
DECLARE
    befores TEXT[] := ARRAY(SELECT '1.' || key.id || '.' FROM auth.encryption_data_keys AS key
                            WHERE starts_with(key.seal, '2.' || its_key || '.') AND key.id < its_key);
BEGIN
    IF befores = '{}' THEN
        RETURN;
    END IF;
    PERFORM set_config('custody.brings_over', 'on', true);
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
               vault.recovery_format_version, vault.recovery_set_at,
               CASE WHEN vault.previous_wrapped_mk IS NOT NULL THEN
                   encode(sha256(convert_to(
                       format('%s:%s%s:%s',
                              octet_length(vault.previous_wrapped_mk), vault.previous_wrapped_mk,
                              octet_length(vault.previous_wrap_iv), vault.previous_wrap_iv),
                       'UTF8')), 'hex')
               END,
               vault.previous_generation,
               vault.seal, vault.seal_serial,
               vault.row_version, vault.quarantined_at IS NOT NULL
        FROM auth.encryption_vaults AS vault
        WHERE left(vault.seal, 38) = ANY (befores)
            AND (vault.quarantined_at IS NULL OR vault.quarantined_at < began)
            AND vault.user_id > above AND (up_to IS NULL OR vault.user_id <= up_to)
        ORDER BY vault.user_id LIMIT most;
    PERFORM set_config('custody.brings_over', '', true);
END
$$;

-- As custody_read_states of 0015.
DROP FUNCTION IF EXISTS auth.custody_read_states(TEXT, INTEGER);
CREATE OR REPLACE FUNCTION auth.custody_load_states(above TEXT, most INTEGER)
    RETURNS TABLE (user_id TEXT, state TEXT, number BIGINT, has_vault BOOLEAN, generation BIGINT,
                   zero_knowledge BOOLEAN, key_check TEXT, recovery_digest TEXT,
                   recovery_format_version SMALLINT, recovery_set_at TIMESTAMPTZ, previous_digest TEXT,
                   previous_generation BIGINT, has_wrap BOOLEAN,
                   went_with_account BOOLEAN)
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
               vault.recovery_format_version, vault.recovery_set_at,
               CASE WHEN vault.previous_wrapped_mk IS NOT NULL THEN
                   encode(sha256(convert_to(
                       format('%s:%s%s:%s',
                              octet_length(vault.previous_wrapped_mk), vault.previous_wrapped_mk,
                              octet_length(vault.previous_wrap_iv), vault.previous_wrap_iv),
                       'UTF8')), 'hex')
               END,
               vault.previous_generation,
               vault.wrapped_mk IS NOT NULL,
               -- Whoever keeps the accounts deletes one, and its vault by the foreign key: no row says so.
               -- Where row-level security would hide accounts from us, nothing is known of them.
               vault.user_id IS NULL AND NOT row_security_active('auth.users')
                   AND NOT EXISTS (SELECT 1 FROM auth.custody_marks AS mark
                                   WHERE mark.table_name = 'users' AND mark.ours)
                   AND NOT EXISTS (SELECT 1 FROM auth.users AS account WHERE account.id = users.user_id)
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

-- As custody_read_rows of 0019.
DROP FUNCTION IF EXISTS auth.custody_read_rows(TEXT[]);
CREATE OR REPLACE FUNCTION auth.custody_load_rows(users TEXT[])
    RETURNS TABLE (user_id TEXT, wrapped_mk TEXT, wrap_iv TEXT, format_version SMALLINT, kek_id TEXT,
                   generation BIGINT, zero_knowledge BOOLEAN, key_check TEXT, recovery_digest TEXT,
                   recovery_is_formed BOOLEAN, recovery_format_version SMALLINT,
                   recovery_set_at TIMESTAMPTZ, previous_digest TEXT, previous_generation BIGINT,
                   previous_wrapped_mk TEXT, previous_wrap_iv TEXT, seal TEXT, seal_serial BIGINT)
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
               vault.recovery_format_version, vault.recovery_set_at,
               CASE WHEN vault.previous_wrapped_mk IS NOT NULL THEN
                   encode(sha256(convert_to(
                       format('%s:%s%s:%s',
                              octet_length(vault.previous_wrapped_mk), vault.previous_wrapped_mk,
                              octet_length(vault.previous_wrap_iv), vault.previous_wrap_iv),
                       'UTF8')), 'hex')
               END,
               vault.previous_generation,
               vault.previous_wrapped_mk, vault.previous_wrap_iv, vault.seal, vault.seal_serial
        FROM auth.encryption_vaults AS vault
        WHERE vault.user_id = ANY (users);
    PERFORM set_config('custody.scans_kek_ids', '', true);
END
$$;

REVOKE ALL ON FUNCTION
        auth.custody_load_vaults(TEXT[]),
        auth.custody_load_sealed_before(TEXT, TEXT, TEXT, TIMESTAMPTZ, INTEGER),
        auth.custody_load_states(TEXT, INTEGER),
        auth.custody_load_rows(TEXT[])
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.custody_load_vaults(TEXT[]) TO custody_app;
GRANT EXECUTE ON FUNCTION auth.custody_load_sealed_before(TEXT, TEXT, TEXT, TIMESTAMPTZ, INTEGER) TO custody_rewrap;
DO $$
BEGIN
    IF to_regrole('custody_audit') IS NOT NULL THEN
        GRANT EXECUTE ON FUNCTION auth.custody_load_states(TEXT, INTEGER) TO custody_audit;
    END IF;
    IF to_regrole('custody_verify') IS NOT NULL THEN
        GRANT EXECUTE ON FUNCTION auth.custody_load_rows(TEXT[]) TO custody_verify;
    END IF;
END
$$;
