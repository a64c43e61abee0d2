-- A page of sealed rows of one kind, in the order of users. Rows that the run has done already (the claim
-- was reclaimed, or the run does everything) are left out.
-- $1 kek_id, $2 format, $3 above which user id, $4 up to which one or NULL, $5 when the run began,
-- $6 how many, $7 target
SELECT user_id, generation, wrapped_mk, wrap_iv, format_version, kek_id, key_check, row_version
FROM auth.encryption_vaults
WHERE wrapped_mk IS NOT NULL AND quarantined_at IS NULL AND seal IS NOT NULL
    AND kek_id = $1 AND format_version = $2 AND user_id > $3
    AND ($4::text IS NULL OR user_id <= $4)
    AND (rewrapped_at IS NULL OR rewrapped_at < $5 OR (kek_id, format_version) <> ($7, 3::smallint))
ORDER BY user_id
LIMIT $6
