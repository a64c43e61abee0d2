-- Checkpoints in their order. $1 from this number on, $2 how many at most
SELECT number, size, last_row, hashes, note
FROM auth.encryption_audit_checkpoints
WHERE number >= $1
ORDER BY number
LIMIT $2
