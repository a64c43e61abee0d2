-- Audit rows in the order of their numbers, for whoever reads all of them. The time as bytes: there are more
-- times than most languages know. $1 from this number on, $2 up to this one, $3 how many at most
SELECT number, id, user_id, action, context, status, timestamptz_send(created_at) AS created_at,
       state, seal, ip_address, user_agent
FROM auth.encryption_vault_audit
WHERE number >= $1 AND number <= $2
ORDER BY number
LIMIT $3
