-- A user's first vault. No row comes back when there is one already: it is never overwritten.
-- The generation starts at the time in milliseconds, so that a vault made after an erasure has a
-- later one than the erased: a device that knows the old one is stale.
-- $1 user id, $2 wrapped_mk, $3 wrap_iv, $4 format_version, $5 kek_id, $6 key_check
INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_check, generation)
VALUES ($1, $2, $3, $4, $5, $6, (extract(epoch FROM now()) * 1000)::bigint)
ON CONFLICT (user_id) DO NOTHING
RETURNING generation
