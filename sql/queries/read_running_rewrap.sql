-- The run that is going on.
SELECT id, target, everything, started_by, sources, state, total, done, moved, failed, started_at,
       heartbeat_at, ended_at, data_key
FROM auth.rewrap_runs WHERE state = 'running'
