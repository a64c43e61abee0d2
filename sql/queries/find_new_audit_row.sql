-- The first row behind a number that is of a time or later. $1 the number, $2 the time
SELECT number FROM auth.encryption_vault_audit
WHERE number > $1 AND created_at >= $2
ORDER BY number
LIMIT 1
