-- Says that a daemon lives, and what it reads and writes.
-- $1 id, $2 host, $3 process, $4 URI it writes under, $5 kek_id it writes, $6 kek_id of its active KEK,
-- $7 URIs and kek_ids it reads, $8 the data key that it seals with
INSERT INTO auth.custody_instances (id, host, process, writes_uri, writes_kek_id, active_kek_id, reads, seals_with)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (id) DO UPDATE
SET writes_uri = excluded.writes_uri, writes_kek_id = excluded.writes_kek_id,
    active_kek_id = excluded.active_kek_id, reads = excluded.reads, seals_with = excluded.seals_with,
    heartbeat_at = now()
