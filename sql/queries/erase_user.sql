-- Removes the user, from a table of our own only. $1 user id
DELETE FROM auth.users
WHERE id = $1 AND obj_description('auth.users'::regclass, 'pg_class') LIKE 'custody:%'
RETURNING id
