-- Seals a batch of rows anew; returns how many were stored, and whose were set aside.
-- $1 the data key. Arrays: $2 user ids, $3 row versions, $4 wraps or NULL, $5 nonces, $6 kek_ids, $7 seals or
-- NULL, $8 for what the row is set aside or NULL. $9 when the run began
SELECT stored, set_aside FROM auth.custody_reseal_rows($1, $2, $3, $4, $5, $6, $7, $8, $9)
