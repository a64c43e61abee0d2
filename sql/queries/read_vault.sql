-- The user's vault, and what the database's clock says (seconds since 1970). $1 user id
SELECT wrapped_mk, wrap_iv, format_version, kek_id,
       recovery_wrapped_mk, recovery_iv, recovery_format_version,
       -- As text: whatever the column holds (it may be infinite), this is not an error.
       extract(epoch FROM recovery_set_at)::text AS recovery_set_at,
       zero_knowledge, generation, key_check, previous_wrapped_mk, previous_wrap_iv, previous_generation,
       seal, seal_serial, row_version,
       extract(epoch FROM clock_timestamp())::float8 AS clock
FROM auth.encryption_vaults
WHERE user_id = $1
