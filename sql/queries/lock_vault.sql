-- Locks a user's vault, where there is one: what is recorded next comes behind what was recorded of it. $1 user id
SELECT user_id FROM auth.encryption_vaults WHERE user_id = $1 FOR UPDATE
