-- Goes on with the latest run, where it was stopped and has the same aim. One over all rows that was
-- left for a day is not the same any more: the key may have been rotated since.
-- $1 target, $2 everything, $3 the data key that rows are sealed with, or NULL
UPDATE auth.rewrap_runs SET state = 'running', ended_at = NULL, heartbeat_at = now()
WHERE id = (SELECT max(id) FROM auth.rewrap_runs) AND state = 'stopped'
    AND (target, everything) = ($1, $2::boolean) AND data_key IS NOT DISTINCT FROM $3
    AND NOT (everything AND heartbeat_at < now() - interval '1 day')
RETURNING id, target, everything, started_by, sources, state, total, done, moved, failed, started_at,
          heartbeat_at, ended_at, data_key
