-- What is behind the last checkpoint. $1 the last row that is under it
SELECT min(number) AS first, max(number) AS last, count(*) AS count,
       -- By the database's clock alone, which has set created_at too.
       coalesce((SELECT created_at < clock_timestamp() - INTERVAL '2 minutes'
                 FROM auth.encryption_vault_audit WHERE number > $1 ORDER BY number LIMIT 1), false) AS is_old
FROM auth.encryption_vault_audit
WHERE number > $1
