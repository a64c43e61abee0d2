-- The user's own audit rows, the newest first. $1 user id, $2 only those before this number (NULL: all),
-- $3 how many at most
SELECT number,
       -- Cut, whatever the columns hold: the daemon writes none that is longer.
       left(id, 64) AS id, left(action, 64) AS action, left(context, 64) AS context, status,
       left(ip_address, 64) AS ip_address, left(user_agent, 512) AS user_agent,
       -- As text: whatever the column holds (it may be infinite), this is not an error.
       extract(epoch FROM created_at)::text AS at
FROM auth.encryption_vault_audit
WHERE user_id = $1 AND number < coalesce($2::bigint, 9223372036854775807)
ORDER BY number DESC
LIMIT $3
