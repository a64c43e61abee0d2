-- Takes a seal that does not hold off the record of a KEK. $1 kek_id, $2 that seal
SELECT auth.custody_doubt_kek($1, $2)
