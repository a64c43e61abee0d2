-- Removes the recovery wrap; in zero-knowledge mode it is the only wrap there is, and stays.
-- $1 user id, $2 row_version
UPDATE auth.encryption_vaults
SET recovery_wrapped_mk = NULL, recovery_iv = NULL, recovery_set_at = NULL
WHERE user_id = $1 AND row_version = $2 AND NOT zero_knowledge
RETURNING generation
