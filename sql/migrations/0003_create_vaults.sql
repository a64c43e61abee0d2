-- auth.encryption_vaults: one row per user. A fresh table, or in place the one of the service
-- that custody replaces: its rows are format 1, stamped env-v1, and stay as they are.

CREATE TABLE IF NOT EXISTS auth.encryption_vaults (
    user_id                  TEXT PRIMARY KEY REFERENCES auth.users (id) ON DELETE CASCADE,
    wrapped_mk               TEXT,
    wrap_iv                  TEXT,
    format_version           SMALLINT NOT NULL DEFAULT 1,
    kek_id                   TEXT NOT NULL DEFAULT 'env-v1',
    recovery_wrapped_mk      TEXT,
    recovery_iv              TEXT,
    recovery_format_version  SMALLINT NOT NULL DEFAULT 1,
    recovery_set_at          TIMESTAMPTZ,
    zero_knowledge           BOOLEAN NOT NULL DEFAULT false,
    created_at               TIMESTAMPTZ NOT NULL DEFAULT now(),
    rotated_at               TIMESTAMPTZ
);

-- An old table may stem from before recovery wraps.
ALTER TABLE auth.encryption_vaults
    ALTER COLUMN wrapped_mk DROP NOT NULL,
    ALTER COLUMN wrap_iv DROP NOT NULL,
    ADD COLUMN IF NOT EXISTS recovery_wrapped_mk TEXT,
    ADD COLUMN IF NOT EXISTS recovery_iv TEXT,
    ADD COLUMN IF NOT EXISTS recovery_format_version SMALLINT NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS recovery_set_at TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS zero_knowledge BOOLEAN NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS generation BIGINT NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS key_check TEXT,
    ADD COLUMN IF NOT EXISTS row_version BIGINT NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS rewrapped_at TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS quarantined_at TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS quarantine_reason TEXT;

COMMENT ON TABLE auth.encryption_vaults IS 'One row per user: the master key, only ever wrapped';
COMMENT ON COLUMN auth.encryption_vaults.wrapped_mk IS 'The master key under the KEK that kek_id names; NULL in zero-knowledge mode';
COMMENT ON COLUMN auth.encryption_vaults.wrap_iv IS 'Nonce in base64; the empty string where the KMS needs none';
COMMENT ON COLUMN auth.encryption_vaults.format_version IS '1: AES-256-GCM, not bound to the user. 2: bound to the user';
COMMENT ON COLUMN auth.encryption_vaults.generation IS 'Grows with every new master key and with nothing else: the ETag';
COMMENT ON COLUMN auth.encryption_vaults.key_check IS 'Key check value: HMAC-SHA-256 of the user id, keyed with the master key';
COMMENT ON COLUMN auth.encryption_vaults.row_version IS 'Grows with every UPDATE: guards against lost updates';

-- The primary key serves what this index of the old service served.
DROP INDEX IF EXISTS auth.encryption_vaults_user_id_idx;

-- At least one wrap, so a user can never be locked out.
ALTER TABLE auth.encryption_vaults DROP CONSTRAINT IF EXISTS encryption_vaults_has_wrap;
ALTER TABLE auth.encryption_vaults ADD CONSTRAINT encryption_vaults_has_wrap
    CHECK (wrapped_mk IS NOT NULL OR recovery_wrapped_mk IS NOT NULL);

-- A wrap and its nonce come and go together.
ALTER TABLE auth.encryption_vaults DROP CONSTRAINT IF EXISTS encryption_vaults_wrap_iv_pair;
ALTER TABLE auth.encryption_vaults ADD CONSTRAINT encryption_vaults_wrap_iv_pair
    CHECK ((wrapped_mk IS NULL) = (wrap_iv IS NULL)
       AND (recovery_wrapped_mk IS NULL) = (recovery_iv IS NULL));

-- Zero-knowledge means what it says: no wrap that the server could open.
ALTER TABLE auth.encryption_vaults DROP CONSTRAINT IF EXISTS encryption_vaults_zk_consistency;
ALTER TABLE auth.encryption_vaults ADD CONSTRAINT encryption_vaults_zk_consistency
    CHECK (NOT zero_knowledge OR (wrapped_mk IS NULL AND recovery_wrapped_mk IS NOT NULL));

-- In the database, so that no writer (not even psql) can change a row unseen by a guarded UPDATE.
CREATE OR REPLACE FUNCTION auth.custody_count_row_version() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.row_version := OLD.row_version + 1;
    RETURN NEW;
END
$$;

DROP TRIGGER IF EXISTS encryption_vaults_row_version ON auth.encryption_vaults;
CREATE TRIGGER encryption_vaults_row_version BEFORE UPDATE ON auth.encryption_vaults
    FOR EACH ROW EXECUTE FUNCTION auth.custody_count_row_version();

-- Row-level security. Policies add up, so one that is left over would open the table: all go, but
-- for the one that 0005 makes, so that this file can be run again alone.
DO $$
DECLARE
    policy record;
BEGIN
    FOR policy IN
        SELECT policyname FROM pg_policies
        WHERE schemaname = 'auth' AND tablename = 'encryption_vaults'
            AND policyname <> 'encryption_vaults_kek_sample'
    LOOP
        EXECUTE format('DROP POLICY %I ON auth.encryption_vaults', policy.policyname);
    END LOOP;
END
$$;

ALTER TABLE auth.encryption_vaults ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.encryption_vaults FORCE ROW LEVEL SECURITY;

-- nullif: after a transaction the setting reads '' and not NULL; neither may see anything.
CREATE POLICY encryption_vaults_own_row ON auth.encryption_vaults
    USING (user_id = nullif(current_setting('app.current_user_id', true), ''))
    WITH CHECK (user_id = nullif(current_setting('app.current_user_id', true), ''));

CREATE POLICY encryption_vaults_rewrap_read ON auth.encryption_vaults
    FOR SELECT TO custody_rewrap USING (true);
-- A re-wrap replaces a wrap: it can't take one away, nor touch a zero-knowledge row.
CREATE POLICY encryption_vaults_rewrap_write ON auth.encryption_vaults
    FOR UPDATE TO custody_rewrap USING (wrapped_mk IS NOT NULL) WITH CHECK (wrapped_mk IS NOT NULL);

REVOKE ALL ON auth.encryption_vaults FROM PUBLIC, custody_app, custody_rewrap;
GRANT SELECT ON auth.encryption_vaults TO custody_app;
GRANT INSERT (user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_check, generation)
    ON auth.encryption_vaults TO custody_app;
GRANT UPDATE (wrapped_mk, wrap_iv, format_version, kek_id, recovery_wrapped_mk, recovery_iv,
              recovery_format_version, recovery_set_at, zero_knowledge, rotated_at, generation,
              key_check, quarantined_at, quarantine_reason)
    ON auth.encryption_vaults TO custody_app;
GRANT SELECT (user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_check, row_version,
              rewrapped_at, quarantined_at, quarantine_reason)
    ON auth.encryption_vaults TO custody_rewrap;
GRANT UPDATE (wrapped_mk, wrap_iv, format_version, kek_id, rewrapped_at, quarantined_at,
              quarantine_reason)
    ON auth.encryption_vaults TO custody_rewrap;
