-- $1 run, $2 kek_id, $3 format, $4 user id
UPDATE auth.rewrap_runs
SET cursor_kek_id = $2, cursor_format = $3, cursor_user_id = $4, heartbeat_at = now()
WHERE id = $1
