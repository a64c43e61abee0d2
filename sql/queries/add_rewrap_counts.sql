-- Only while the run goes on: what comes too late is not stored. $1 run, $2 done, $3 moved, $4 failed
UPDATE auth.rewrap_runs
SET done = done + $2, moved = moved + $3, failed = failed + $4, heartbeat_at = now()
WHERE id = $1 AND state = 'running'
RETURNING id
