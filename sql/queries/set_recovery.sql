-- Stores or replaces the recovery wrap.
-- $1 user id, $2 row_version, $3 recovery_wrapped_mk, $4 recovery_iv
UPDATE auth.encryption_vaults
SET recovery_wrapped_mk = $3, recovery_iv = $4, recovery_format_version = 1, recovery_set_at = now()
WHERE user_id = $1 AND row_version = $2
RETURNING generation
