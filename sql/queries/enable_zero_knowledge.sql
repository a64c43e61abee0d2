-- The server forgets the key. The guard makes sure that the recovery wrap is still there.
-- $1 user id, $2 row_version, $3 key_check
UPDATE auth.encryption_vaults
SET zero_knowledge = true, wrapped_mk = NULL, wrap_iv = NULL, key_check = $3,
    quarantined_at = NULL, quarantine_reason = NULL
WHERE user_id = $1 AND row_version = $2 AND recovery_wrapped_mk IS NOT NULL
RETURNING generation
