-- The data keys, the oldest first, each with its wraps: a line for each wrap, one without columns of a
-- wrap where there is none. No time: whatever those columns hold, this is read.
SELECT key.id, key.seal, key.lost_at IS NOT NULL AS is_lost,
       wrap.kek_id, wrap.wrapped_key, wrap.wrap_iv, wrap.format_version
FROM auth.encryption_data_keys AS key
LEFT JOIN auth.encryption_data_key_wraps AS wrap ON wrap.data_key_id = key.id
ORDER BY key.id, wrap.created_at, wrap.kek_id
