-- Where the next claim of a run begins; claimers wait for one another here. $1 run
SELECT state, cursor_kek_id, cursor_format, cursor_user_id, started_at, done
FROM auth.rewrap_runs WHERE id = $1 FOR UPDATE
