-- The recorded fingerprint of a kek_id. $1 kek_id
SELECT fingerprint FROM auth.encryption_keks WHERE kek_id = $1
