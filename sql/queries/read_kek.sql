-- What is recorded of a kek_id. $1 kek_id
SELECT fingerprint, backend, state, seal FROM auth.encryption_keks WHERE kek_id = $1
