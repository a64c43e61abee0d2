-- Adds the user where the table is our own. $1 user id
INSERT INTO auth.users (id)
SELECT $1
WHERE obj_description('auth.users'::regclass, 'pg_class') LIKE 'custody:%'
ON CONFLICT (id) DO NOTHING
