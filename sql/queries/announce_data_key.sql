-- Adds a data key that the current one vouches for; returns the id of the one that is there then, or NULL
-- where the current one is another by now.
-- $1 id, $2 its seal, $3 kek_id, $4 wrapped key, $5 nonce, $6 id and $7 seal of the current one, $8 ids that
-- are no data keys of ours
SELECT auth.custody_announce_data_key($1, $2, $3, $4, $5, $6, $7, $8)
