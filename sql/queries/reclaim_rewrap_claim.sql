-- Reclaims a claim that has expired: its heartbeat is too old.
-- $1 run, $2 owner, $3 after how many seconds
UPDATE auth.rewrap_claims SET owner = $2, heartbeat_at = now()
WHERE id = (
    SELECT id FROM auth.rewrap_claims
    WHERE run_id = $1 AND heartbeat_at < now() - make_interval(secs => $3::float8)
    ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1
)
RETURNING id, kek_id, format, above, up_to
