-- A user's first vault. No row comes back when there is one already: it is never overwritten.
-- $1 user id, $2 generation, $3 wrapped_mk, $4 wrap_iv, $5 format_version, $6 kek_id, $7 key_check
INSERT INTO auth.encryption_vaults (user_id, generation, wrapped_mk, wrap_iv, format_version, kek_id, key_check)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (user_id) DO NOTHING
RETURNING generation
