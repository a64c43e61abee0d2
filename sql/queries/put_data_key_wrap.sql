-- Puts a data key under one more KEK; returns whether it is there now.
-- $1 id, $2 kek_id, $3 wrapped key, $4 nonce, $5 the wrapped key that it may replace, or NULL
SELECT auth.custody_put_data_key_wrap($1, $2, $3, $4, $5)
