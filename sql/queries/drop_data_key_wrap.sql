-- Takes a data key's wrap under a KEK away; returns whether it did.
-- $1 id, $2 kek_id, $3 kek_id of the wrap that must be there and stays
SELECT auth.custody_drop_data_key_wrap($1, $2, $3)
