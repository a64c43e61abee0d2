-- How many rows have a wrap under each kek_id; of these, how many are legacy rows (not sealed), format 1,
-- quarantined, and of an old format.
-- By custody_rewrap alone: another role would count only what row-level security shows it.
SELECT kek_id,
       count(*) AS wraps,
       count(*) FILTER (WHERE seal IS NULL) AS legacy,
       count(*) FILTER (WHERE format_version = 1) AS format_1,
       count(*) FILTER (WHERE quarantined_at IS NOT NULL) AS quarantined,
       count(*) FILTER (WHERE format_version < 3) AS old_format
FROM auth.encryption_vaults
WHERE wrapped_mk IS NOT NULL
GROUP BY kek_id
ORDER BY kek_id
