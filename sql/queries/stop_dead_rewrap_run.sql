-- Closes a run with another aim that nobody works on any more. And one over all rows that was left
-- for a day: the key may have been rotated since, so what it has done is not done for a new one.
-- $1 target, $2 everything
UPDATE auth.rewrap_runs SET state = 'stopped', ended_at = now()
WHERE state = 'running'
    AND ((target, everything) <> ($1, $2::boolean) AND heartbeat_at < now() - interval '1 minute'
         OR everything AND heartbeat_at < now() - interval '1 day')
RETURNING id
