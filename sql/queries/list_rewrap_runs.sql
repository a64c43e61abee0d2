-- The latest runs, the newest first. $1 how many
SELECT id, target, everything, started_by, sources, state, total, done, moved, failed, started_at,
       heartbeat_at, ended_at
FROM auth.rewrap_runs ORDER BY id DESC LIMIT $1
