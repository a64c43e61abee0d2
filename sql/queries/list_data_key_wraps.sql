-- The wraps of data keys under a KEK. $1 kek_id
SELECT data_key_id, wrapped_key, wrap_iv, format_version
FROM auth.encryption_data_key_wraps
WHERE kek_id = $1
ORDER BY data_key_id
