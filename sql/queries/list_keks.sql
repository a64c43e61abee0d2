-- The registered KEKs, the oldest first.
SELECT kek_id, fingerprint, backend, locator, state, recorded_at, activated_at, retired_at,
       retirement::text AS retirement, seal
FROM auth.encryption_keks
ORDER BY recorded_at, kek_id
