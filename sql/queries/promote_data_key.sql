-- Makes a successor the current data key; returns whether it did.
-- $1 id, $2 its seal, $3 id and $4 seal of the current one, $5 the MAC by which the new one vouches for it
SELECT auth.custody_promote_data_key($1, $2, $3, $4, $5)
