-- Adds a data key, unless there is one; answers with the id of the one there is now, or with NULL where
-- rows are sealed and no record is good. $1 id, $2 seal, $3 kek_id, $4 the wrapped key, $5 nonce or '',
-- $6 ids of records that are none of a data key
SELECT auth.custody_add_data_key($1, $2, $3, $4, $5, $6)
