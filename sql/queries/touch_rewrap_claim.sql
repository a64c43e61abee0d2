-- Writes the heartbeat of a claim, and so of its run. $1 claim, $2 owner
WITH touched AS (
    UPDATE auth.rewrap_claims SET heartbeat_at = now() WHERE id = $1 AND owner = $2 RETURNING run_id
)
UPDATE auth.rewrap_runs SET heartbeat_at = now()
WHERE id = (SELECT run_id FROM touched) AND state = 'running'
