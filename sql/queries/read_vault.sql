-- The user's vault. $1 user id
SELECT wrapped_mk, wrap_iv, format_version, kek_id,
       recovery_wrapped_mk, recovery_iv, recovery_format_version, recovery_set_at,
       zero_knowledge, generation, key_check, row_version
FROM auth.encryption_vaults
WHERE user_id = $1
