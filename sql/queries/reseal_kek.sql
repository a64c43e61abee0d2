-- Seals the record of a KEK anew; returns whether it did. $1 kek_id, $2 its seal, $3 the new one
SELECT auth.custody_reseal_kek($1, $2, $3)
