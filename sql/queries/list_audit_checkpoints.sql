-- The latest checkpoints of the audit, the newest first, and how old the newest is (seconds).
-- $1 only those before this number (NULL: all), $2 how many
SELECT number, size, last_row, hashes, note,
       extract(epoch FROM clock_timestamp() - max(made_at) OVER ())::float8 AS age
FROM auth.encryption_audit_checkpoints
WHERE number < $1::bigint OR $1 IS NULL
ORDER BY number DESC LIMIT $2
