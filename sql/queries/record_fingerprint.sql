-- Records a kek_id's fingerprint; the first one stays. $1 kek_id, $2 fingerprint
INSERT INTO auth.encryption_keks (kek_id, fingerprint) VALUES ($1, $2) ON CONFLICT DO NOTHING
