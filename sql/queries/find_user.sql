-- Whether the user may have a vault: always where the table is our own (/init adds the user),
-- otherwise only if whoever keeps the table knows the user. And what the database's clock says (seconds
-- since 1970). $1 user id
SELECT EXISTS (SELECT 1 FROM auth.custody_marks WHERE table_name = 'users' AND ours)
       OR EXISTS (SELECT 1 FROM auth.users WHERE id = $1) AS known,
       extract(epoch FROM clock_timestamp())::float8 AS clock
