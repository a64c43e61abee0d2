-- What the last prune has left; no row: there was none.
SELECT checkpoint, hashes, note FROM auth.encryption_audit_prunes
