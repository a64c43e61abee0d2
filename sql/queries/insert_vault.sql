-- A user's first vault. No row comes back when there is one already: it is never overwritten.
-- $1 user id, $2 wrapped_mk, $3 wrap_iv, $4 format_version, $5 kek_id, $6 key_check
INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_check)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (user_id) DO NOTHING
RETURNING generation
