-- Removes the user, from a table of our own only. $1 user id
DELETE FROM auth.users
WHERE id = $1 AND EXISTS (SELECT 1 FROM auth.custody_marks WHERE table_name = 'users' AND ours)
RETURNING id
