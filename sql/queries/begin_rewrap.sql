-- $1 target, $2 everything, $3 who, $4 sources, $5 total
INSERT INTO auth.rewrap_runs (target, everything, started_by, sources, total)
VALUES ($1, $2, $3, $4, $5)
RETURNING id, target, everything, started_by, sources, state, total, done, moved, failed, started_at,
          heartbeat_at, ended_at
