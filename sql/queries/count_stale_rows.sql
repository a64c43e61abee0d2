-- How many rows a run has to do, what KEKs they have, and how many of them need no KEK: those in
-- zero-knowledge mode, which are only sealed. $1 target, $2 everything, $3 whether rows that are not
-- sealed are to do, $4 what the seals of rows begin with that are to be sealed anew
SELECT coalesce(sum(kind.rows), 0)::bigint + bare.rows AS total,
       coalesce(array_agg(DISTINCT kind.kek_id ORDER BY kind.kek_id)
                FILTER (WHERE kind.kek_id IS NOT NULL), '{}') AS sources,
       bare.rows AS without_wrap
FROM (
    SELECT count(*) AS rows FROM auth.encryption_vaults
    WHERE wrapped_mk IS NULL AND quarantined_at IS NULL
        AND CASE WHEN seal IS NULL THEN $3::boolean
                 ELSE left(seal, 38) = ANY ($4::text[]) END
) AS bare
LEFT JOIN (
    SELECT kek_id, count(*) AS rows FROM auth.encryption_vaults
    WHERE wrapped_mk IS NOT NULL AND quarantined_at IS NULL
        AND CASE WHEN seal IS NULL THEN $3::boolean
                 ELSE $2::boolean OR (kek_id, format_version) <> ($1, 3::smallint)
                     OR left(seal, 38) = ANY ($4::text[]) END
    GROUP BY kek_id
) AS kind ON true
GROUP BY bare.rows
