-- The state of a kek_id. $1 kek_id
SELECT state FROM auth.encryption_keks WHERE kek_id = $1
