-- $1 target, $2 everything, $3 who, $4 sources, $5 total, $6 the data key that rows are sealed with, or NULL
INSERT INTO auth.rewrap_runs (target, everything, started_by, sources, total, data_key)
VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id, target, everything, started_by, sources, state, total, done, moved, failed, started_at,
          heartbeat_at, ended_at, data_key
