-- About how many vaults there are, by the last ANALYZE: to count them would read them all.
SELECT greatest(reltuples, 0)::bigint FROM pg_class
WHERE relname = 'encryption_vaults' AND relnamespace = 'auth'::regnamespace
