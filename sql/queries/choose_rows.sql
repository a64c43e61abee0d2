-- How many rows each kek_id has, and some of them at random. $1 how many at most, $2 the seed
SELECT kek_id, count, users FROM auth.custody_choose_rows($1, $2)
