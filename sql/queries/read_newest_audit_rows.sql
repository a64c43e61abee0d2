-- The newest audit rows, as read_audit_rows has them, the newest first. $1 up to this number, $2 whose, or
-- NULL, $3 of these actions, or NULL, $4 how many at most
SELECT number, id, user_id, action, context, status, timestamptz_send(created_at) AS created_at,
       state, seal, ip_address, user_agent
FROM auth.encryption_vault_audit
WHERE number <= $1
  AND ($2::text IS NULL OR user_id = $2)
  AND ($3::text[] IS NULL OR action = ANY ($3))
ORDER BY number DESC
LIMIT $4
