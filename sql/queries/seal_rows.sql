-- Seals a batch of rows that were not; returns how many.
-- Arrays: $1 user ids, $2 row versions, $3 wraps or NULL, $4 nonces, $5 kek_ids, $6 key check values,
-- $7 seals. $8 when the run began
SELECT auth.custody_seal_rows($1, $2, $3, $4, $5, $6, $7, $8)
