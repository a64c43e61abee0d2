-- Removes a user's vault. $1 user id
DELETE FROM auth.encryption_vaults WHERE user_id = $1 RETURNING user_id
