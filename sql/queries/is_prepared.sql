-- Whether the server knows a prepared statement by this name. $1 name
SELECT EXISTS (SELECT 1 FROM pg_prepared_statements WHERE name = $1)
