-- Puts the new wraps of a batch into its rows by compare-and-set: each only if its row version is
-- still the one that was read. A row that a user is changing at this moment is left out, not waited
-- for. Returns how many.
-- The arrays are joined once: the planner takes them for a few rows, and would compare each with each.
-- Arrays: $1 user ids, $2 row versions, $3 wraps, $4 nonces, $5 kek_ids. $6 when the run began:
-- by that a run over all rows knows what it has done, even if the clock is set back meanwhile
WITH free AS MATERIALIZED (
    SELECT made.*
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[])
            AS made (user_id, row_version, wrapped_mk, wrap_iv, kek_id)
        JOIN auth.encryption_vaults AS vault USING (user_id, row_version)
    WHERE vault.wrapped_mk IS NOT NULL
    ORDER BY vault.user_id FOR UPDATE OF vault SKIP LOCKED
),
stored AS (
    UPDATE auth.encryption_vaults AS vault
    SET wrapped_mk = free.wrapped_mk, wrap_iv = free.wrap_iv, format_version = 3,
        kek_id = free.kek_id, rewrapped_at = greatest(now(), $6)
    FROM free
    WHERE vault.user_id = free.user_id AND vault.row_version = free.row_version
        AND vault.wrapped_mk IS NOT NULL
    RETURNING 1
)
SELECT count(*) FROM stored
