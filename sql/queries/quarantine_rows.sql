-- Quarantines rows by compare-and-set: each only if its row version is still the one that was read.
-- One that a user is changing at this moment is left out, not waited for. Returns whose they were.
-- Arrays: $1 user ids, $2 row versions, $3 reasons
WITH damaged AS (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[]) AS damaged (user_id, row_version, reason)
),
free AS (
    SELECT vault.user_id FROM auth.encryption_vaults AS vault
    JOIN damaged USING (user_id, row_version)
    WHERE vault.wrapped_mk IS NOT NULL
    ORDER BY vault.user_id FOR UPDATE OF vault SKIP LOCKED
)
UPDATE auth.encryption_vaults AS vault
SET quarantined_at = now(), quarantine_reason = damaged.reason
FROM damaged JOIN free USING (user_id)
WHERE vault.user_id = damaged.user_id AND vault.row_version = damaged.row_version
    AND vault.wrapped_mk IS NOT NULL
RETURNING vault.user_id
