-- The latest run, and before it those that did something, the newest first: a job of every night that
-- finds nothing to do would fill the list alone. A run that goes on by its record, and has been left
-- (its process was killed), is stopped. $1 how many, $2 for how many seconds a heartbeat is good
SELECT id, target, everything, started_by, sources,
       CASE WHEN state = 'running'
                AND heartbeat_at < now() - make_interval(secs => $2::float8)
                AND NOT EXISTS (
                    SELECT FROM auth.rewrap_claims AS claim
                    WHERE claim.run_id = run.id AND claim.owner <> ''
                        AND claim.heartbeat_at > now() - make_interval(secs => $2::float8))
            THEN 'stopped' ELSE state END AS state,
       total, done, moved, failed, started_at, heartbeat_at, ended_at, data_key
FROM auth.rewrap_runs AS run
WHERE state = 'running' OR done + moved + failed > 0 OR id = (SELECT max(id) FROM auth.rewrap_runs)
ORDER BY id DESC LIMIT $1
