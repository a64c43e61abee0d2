-- Lets rows that were set aside be tried again; returns how many. A row that a user is changing at
-- this moment is left out, not waited for.
WITH free AS (
    SELECT user_id FROM auth.encryption_vaults
    WHERE quarantined_at IS NOT NULL AND wrapped_mk IS NOT NULL
    ORDER BY user_id FOR UPDATE SKIP LOCKED
),
released AS (
    UPDATE auth.encryption_vaults AS vault SET quarantined_at = NULL, quarantine_reason = NULL
    FROM free
    WHERE vault.user_id = free.user_id AND vault.wrapped_mk IS NOT NULL
    RETURNING 1
)
SELECT count(*) FROM released
