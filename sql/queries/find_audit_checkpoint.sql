-- The last of the checkpoints with a number ($1) or a size ($2); of all, where both are NULL.
SELECT number, size, last_row, hashes, note
FROM auth.encryption_audit_checkpoints
WHERE ($1::bigint IS NULL OR number = $1) AND ($2::bigint IS NULL OR size = $2)
ORDER BY number DESC
LIMIT 1
