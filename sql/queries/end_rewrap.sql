-- Closes a run that is still going on. One that set rows aside was not done. $1 id, $2 state
UPDATE auth.rewrap_runs
SET state = CASE WHEN $2 = 'done' AND failed > 0 THEN 'failed' ELSE $2 END,
    ended_at = now(), heartbeat_at = now()
WHERE id = $1 AND state = 'running'
RETURNING state
