-- The key check value of a row that has none. Never waits: if someone else holds the row, the next
-- fetch records it. $1 user id, $2 row_version, $3 key_check
UPDATE auth.encryption_vaults
SET key_check = $3
WHERE user_id IN (
    SELECT user_id FROM auth.encryption_vaults
    WHERE user_id = $1 AND row_version = $2 AND key_check IS NULL
    FOR UPDATE SKIP LOCKED
)
