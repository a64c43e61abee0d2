-- The server keeps the key again. The recovery wrap stays.
-- $1 user id, $2 row_version, $3 wrapped_mk, $4 wrap_iv, $5 format_version, $6 kek_id, $7 key_check
UPDATE auth.encryption_vaults
SET zero_knowledge = false, wrapped_mk = $3, wrap_iv = $4, format_version = $5, kek_id = $6,
    key_check = $7
WHERE user_id = $1 AND row_version = $2 AND zero_knowledge
RETURNING generation
