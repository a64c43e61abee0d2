-- Rows to be verified. $1 whose
SELECT user_id, wrapped_mk, wrap_iv, format_version, kek_id, generation, zero_knowledge, key_check,
       recovery_digest, recovery_is_formed, recovery_format_version,
       -- As it is sealed; see read_vaults.
       extract(epoch FROM recovery_set_at)::text AS recovery_set_at,
       previous_digest, previous_generation, previous_wrapped_mk, previous_wrap_iv, seal, seal_serial
FROM auth.custody_load_rows($1)
