-- The records of data keys with their wraps, the oldest first; one without a wrap has one row. There
-- are 16 at most, unless somebody wrote past the functions.
SELECT key.id, key.seal, key.lost_at IS NOT NULL AS is_lost,
       wrap.kek_id, wrap.wrapped_key, wrap.wrap_iv, wrap.format_version
FROM auth.encryption_data_keys AS key
LEFT JOIN auth.encryption_data_key_wraps AS wrap ON wrap.data_key_id = key.id
ORDER BY key.id, wrap.kek_id LIMIT 1000
