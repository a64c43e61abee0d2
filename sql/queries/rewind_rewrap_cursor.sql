-- Sets the cursor of a run back to its first row. $1 run
UPDATE auth.rewrap_runs
SET cursor_kek_id = '', cursor_format = 0, cursor_user_id = '', heartbeat_at = now()
WHERE id = $1
