-- Whose rows there are. $1 which part of them, from 0, $2 of how many parts
SELECT auth.custody_list_rows($1, $2) AS user_id
