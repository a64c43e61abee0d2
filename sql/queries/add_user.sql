-- Adds the user where the table is our own. $1 user id
SELECT auth.custody_add_user($1)
