-- Rows that have a client in them, in the order of their numbers.
-- $1 above this number, $2 from before this time, $3 how many at most
SELECT number FROM auth.encryption_vault_audit
WHERE number > $1 AND created_at < $2 AND seal IS NOT NULL
    AND (ip_address IS NOT NULL OR user_agent IS NOT NULL)
ORDER BY number
LIMIT $3
