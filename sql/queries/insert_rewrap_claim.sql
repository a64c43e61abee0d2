-- Makes a claim, and moves the cursor behind it. $1 run, $2 owner, $3 kek_id, $4 format, $5 above, $6 up to
WITH moved AS (
    UPDATE auth.rewrap_runs
    SET cursor_kek_id = $3, cursor_format = $4, cursor_user_id = $6, heartbeat_at = now()
    WHERE id = $1
)
INSERT INTO auth.rewrap_claims (run_id, owner, kek_id, format, above, up_to)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING id
