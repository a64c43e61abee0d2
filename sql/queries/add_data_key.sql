-- Adds a data key, unless there is one; returns the id of the one that is there then, or NULL.
-- $1 id, $2 its seal, $3 kek_id, $4 wrapped key, $5 nonce, $6 ids that are no data keys of ours
SELECT auth.custody_add_data_key($1, $2, $3, $4, $5, $6)
