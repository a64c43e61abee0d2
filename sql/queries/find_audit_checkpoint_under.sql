-- The last checkpoint that has no row behind this one under it. $1 the number of that row
SELECT number FROM auth.encryption_audit_checkpoints WHERE last_row <= $1 ORDER BY number DESC LIMIT 1
