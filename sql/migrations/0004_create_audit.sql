-- auth.encryption_vault_audit: append-only. No runtime role can UPDATE, DELETE or TRUNCATE it.
-- Its rows outlive the account: an old table's cascading foreign key goes, its rows and ids stay.

CREATE TABLE IF NOT EXISTS auth.encryption_vault_audit (
    id          TEXT PRIMARY KEY,
    user_id     TEXT NOT NULL,
    action      TEXT NOT NULL,
    ip_address  TEXT,
    user_agent  TEXT,
    context     TEXT,
    status      INTEGER NOT NULL,
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- The daemon gives time-ordered ids (RFC 9562, UUIDv7), which keep the index small and warm.
ALTER TABLE auth.encryption_vault_audit ALTER COLUMN id SET DEFAULT gen_random_uuid()::text;

COMMENT ON TABLE auth.encryption_vault_audit IS 'Append-only: one row per action on a vault';
COMMENT ON COLUMN auth.encryption_vault_audit.status IS 'The HTTP status that was sent';
COMMENT ON COLUMN auth.encryption_vault_audit.user_id IS 'Empty for a re-wrap run';

DO $$
DECLARE
    reference record;
BEGIN
    FOR reference IN
        SELECT conname FROM pg_constraint
        WHERE conrelid = 'auth.encryption_vault_audit'::regclass AND contype = 'f'
    LOOP
        EXECUTE format('ALTER TABLE auth.encryption_vault_audit DROP CONSTRAINT %I', reference.conname);
    END LOOP;
END
$$;

-- One index for "what happened to this user"; created_at grows with the table, so BRIN is enough.
DROP INDEX IF EXISTS auth.encryption_vault_audit_user_id_idx;
DROP INDEX IF EXISTS auth.encryption_vault_audit_created_at_idx;
CREATE INDEX IF NOT EXISTS encryption_vault_audit_user_created_idx
    ON auth.encryption_vault_audit (user_id, created_at);
CREATE INDEX IF NOT EXISTS encryption_vault_audit_created_brin
    ON auth.encryption_vault_audit USING brin (created_at);

-- What is not committed by a request's deadline never commits later: every change of a vault has
-- an audit row in its transaction, and this check runs inside COMMIT, after the last wait.
CREATE OR REPLACE FUNCTION auth.custody_hold_deadline() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF extract(epoch FROM clock_timestamp())
       > nullif(current_setting('app.deadline', true), '')::numeric THEN
        RAISE EXCEPTION 'the deadline of this request has passed' USING ERRCODE = 'query_canceled';
    END IF;
    RETURN NULL;
END
$$;

DROP TRIGGER IF EXISTS encryption_vault_audit_deadline ON auth.encryption_vault_audit;
CREATE CONSTRAINT TRIGGER encryption_vault_audit_deadline
    AFTER INSERT ON auth.encryption_vault_audit
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION auth.custody_hold_deadline();

DO $$
DECLARE
    policy record;
BEGIN
    FOR policy IN
        SELECT policyname FROM pg_policies
        WHERE schemaname = 'auth' AND tablename = 'encryption_vault_audit'
    LOOP
        EXECUTE format('DROP POLICY %I ON auth.encryption_vault_audit', policy.policyname);
    END LOOP;
END
$$;

ALTER TABLE auth.encryption_vault_audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.encryption_vault_audit FORCE ROW LEVEL SECURITY;

-- Not for custody_rewrap: it may not write in a user's name.
CREATE POLICY encryption_vault_audit_own_row ON auth.encryption_vault_audit
    TO custody_app, CURRENT_USER
    USING (user_id = nullif(current_setting('app.current_user_id', true), ''))
    WITH CHECK (user_id = nullif(current_setting('app.current_user_id', true), ''));
CREATE POLICY encryption_vault_audit_rewrap ON auth.encryption_vault_audit
    FOR INSERT TO custody_rewrap WITH CHECK (action IN ('rewrap_run', 'rewrap_failed'));

REVOKE ALL ON auth.encryption_vault_audit FROM PUBLIC, custody_app, custody_rewrap;
-- Not created_at: a row's time is the database's word.
GRANT INSERT (id, user_id, action, ip_address, user_agent, context, status)
    ON auth.encryption_vault_audit TO custody_app, custody_rewrap;
