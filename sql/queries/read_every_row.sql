-- Rows to be verified, in the order of users. $1 above this user, $2 how many, $3 or NULL: those of these users
SELECT user_id, wrapped_mk, wrap_iv, format_version, kek_id, generation, zero_knowledge, key_check,
       recovery_digest, recovery_is_formed, recovery_format_version,
       -- As it is sealed; see read_vaults.
       extract(epoch FROM recovery_set_at)::text AS recovery_set_at, seal, seal_serial
FROM auth.custody_read_rows($1, $2, $3)
