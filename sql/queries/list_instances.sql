-- The daemons that were alive within the last minute.
SELECT id, host, process, writes_uri, writes_kek_id, active_kek_id, reads, seals_with, started_at, heartbeat_at
FROM auth.custody_instances
WHERE heartbeat_at > now() - interval '1 minute'
ORDER BY id
