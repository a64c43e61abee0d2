-- The owner lets go of audit rows that an export holds (custody audit prune), and of clients in those that stay
-- (custody audit redact). No runtime role can do either.

-- What the last prune has left: there is one at most.
CREATE TABLE IF NOT EXISTS auth.encryption_audit_prunes (
    is_last     BOOLEAN PRIMARY KEY DEFAULT true CONSTRAINT encryption_audit_prunes_is_last CHECK (is_last),
    checkpoint  BIGINT NOT NULL,
    hashes      BYTEA NOT NULL,
    note        TEXT NOT NULL,
    made_at     TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON TABLE auth.encryption_audit_prunes IS 'What the last prune has left of the audit, signed by a data key';
COMMENT ON COLUMN auth.encryption_audit_prunes.checkpoint IS 'The number of the checkpoint up to which rows are gone: the first one that is there';
COMMENT ON COLUMN auth.encryption_audit_prunes.hashes IS
    'While kept rows of the prune before are gone through: the roots of the whole subtrees over those that were passed';
COMMENT ON COLUMN auth.encryption_audit_prunes.note IS 'Which rows of before were kept, as a signed note; the rest is not believed without it';

REVOKE ALL ON auth.encryption_audit_prunes FROM PUBLIC, custody_app, custody_rewrap;
-- For the sealer, which would take the log for cut off.
GRANT SELECT ON auth.encryption_audit_prunes TO custody_app;
DO $$
BEGIN
    IF to_regrole('custody_audit') IS NOT NULL THEN
        GRANT SELECT ON auth.encryption_audit_prunes TO custody_audit;
    END IF;
END
$$;

-- The owner is under FORCE as well: it deletes while it says that it prunes, and takes clients out, and writes
-- nothing else, while it says that. Of a row without a seal they are in the tree as they are, so they stay.
DROP POLICY IF EXISTS encryption_vault_audit_prune ON auth.encryption_vault_audit;
CREATE POLICY encryption_vault_audit_prune ON auth.encryption_vault_audit
    FOR DELETE TO CURRENT_USER
    USING ((SELECT current_setting('custody.prunes_audit', true)) = 'on');
-- Each of its transactions leaves a row that says so.
DROP POLICY IF EXISTS encryption_vault_audit_prune_row ON auth.encryption_vault_audit;
CREATE POLICY encryption_vault_audit_prune_row ON auth.encryption_vault_audit
    FOR INSERT TO CURRENT_USER
    WITH CHECK ((SELECT current_setting('custody.prunes_audit', true)) = 'on'
                AND action = 'prune' AND user_id = '');
DROP POLICY IF EXISTS encryption_vault_audit_redact ON auth.encryption_vault_audit;
CREATE POLICY encryption_vault_audit_redact ON auth.encryption_vault_audit
    FOR UPDATE TO CURRENT_USER
    USING ((SELECT current_setting('custody.redacts_audit', true)) = 'on' AND seal IS NOT NULL)
    WITH CHECK ((SELECT current_setting('custody.redacts_audit', true)) = 'on'
                AND ip_address IS NULL AND user_agent IS NULL);
