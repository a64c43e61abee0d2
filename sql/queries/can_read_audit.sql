-- Whether there is an audit as this release has it, and whether row-level security lets this role read all of
-- it: of another role it would hide rows without a word.
SELECT to_regclass('auth.encryption_audit_prunes') IS NOT NULL AS is_migrated,
       (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user)
       OR coalesce(pg_has_role(to_regrole('custody_audit'), 'USAGE'), false)
       OR coalesce((SELECT pg_has_role(relowner, 'USAGE') FROM pg_class
                    WHERE oid = to_regclass('auth.encryption_vault_audit')), false) AS may_read
