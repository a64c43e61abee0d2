-- The kinds of rows there are, by one probe of the index for each: (kek_id, format).
WITH RECURSIVE kind (kek_id, format_version) AS (
    (SELECT kek_id, format_version FROM auth.encryption_vaults
     WHERE wrapped_mk IS NOT NULL
     ORDER BY kek_id, format_version LIMIT 1)
    UNION ALL
    SELECT next.kek_id, next.format_version
    FROM kind, LATERAL (
        SELECT vault.kek_id, vault.format_version FROM auth.encryption_vaults AS vault
        WHERE wrapped_mk IS NOT NULL
            AND (vault.kek_id, vault.format_version) > (kind.kek_id, kind.format_version)
        ORDER BY vault.kek_id, vault.format_version LIMIT 1
    ) AS next
)
SELECT kek_id, format_version FROM kind
