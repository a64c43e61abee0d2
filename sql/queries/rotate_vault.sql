-- A fresh master key for good, wrapped for the next generation: the row version says that it is
-- the next. Heals a row whose wrap can't be opened.
-- $1 user id, $2 row_version, $3 wrapped_mk, $4 wrap_iv, $5 format_version, $6 kek_id, $7 key_check
UPDATE auth.encryption_vaults
SET wrapped_mk = $3, wrap_iv = $4, format_version = $5, kek_id = $6, key_check = $7,
    generation = generation + 1, rotated_at = now(),
    recovery_wrapped_mk = NULL, recovery_iv = NULL, recovery_set_at = NULL,
    quarantined_at = NULL, quarantine_reason = NULL
WHERE user_id = $1 AND row_version = $2 AND NOT zero_knowledge
RETURNING generation
