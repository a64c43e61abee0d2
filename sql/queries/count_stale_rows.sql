-- How many rows a run has to do, and what KEKs they have. $1 target, $2 everything
SELECT coalesce(sum(kind.rows), 0)::bigint AS total,
       coalesce(array_agg(DISTINCT kind.kek_id ORDER BY kind.kek_id), '{}') AS sources
FROM (
    SELECT kek_id, count(*) AS rows FROM auth.encryption_vaults
    WHERE wrapped_mk IS NOT NULL AND quarantined_at IS NULL
        AND ($2::boolean OR (kek_id, format_version) <> ($1, 3::smallint))
    GROUP BY kek_id
) AS kind
