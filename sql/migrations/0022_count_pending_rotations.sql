-- Rotations that stay pending: how many there are, and the oldest, without a look at any other row.

CREATE INDEX IF NOT EXISTS encryption_vaults_pending_idx ON auth.encryption_vaults (rotated_at)
    WHERE previous_wrapped_mk IS NOT NULL;

-- Counted to 1,001; the oldest is that of all of them. When the live key was made, the rotation began.
CREATE OR REPLACE FUNCTION auth.custody_count_pending()
    RETURNS TABLE (rotations BIGINT, oldest TIMESTAMPTZ)
    LANGUAGE plpgsql SECURITY DEFINER
    -- In the order of the index, so that it ends there: behind the policies it looks as if few rows came.
    SET search_path = pg_catalog, pg_temp SET enable_sort = off AS $$
BEGIN
    PERFORM set_config('custody.scans_kek_ids', 'on', true);
    RETURN QUERY
        SELECT count(*), min(pending.rotated_at)
        FROM (SELECT vault.rotated_at FROM auth.encryption_vaults AS vault
              WHERE vault.previous_wrapped_mk IS NOT NULL ORDER BY vault.rotated_at LIMIT 1001) AS pending;
    PERFORM set_config('custody.scans_kek_ids', '', true);
END
$$;

REVOKE ALL ON FUNCTION auth.custody_count_pending() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.custody_count_pending() TO custody_app;
