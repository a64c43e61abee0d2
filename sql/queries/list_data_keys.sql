-- The data keys, the oldest first, each with the KEKs that it is wrapped under: a line for each, one
-- without a kek_id where there is none.
SELECT key.id, key.created_at, key.lost_at, wrap.kek_id
FROM auth.encryption_data_keys AS key
LEFT JOIN auth.encryption_data_key_wraps AS wrap ON wrap.data_key_id = key.id
ORDER BY key.id, wrap.created_at, wrap.kek_id
