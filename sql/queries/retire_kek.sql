-- Retires a KEK for good, or says why not. $1 kek_id
SELECT auth.custody_retire_kek($1)
