-- auth.encryption_keks: what key material a kek_id stands for, so that it can never come to mean
-- other material. A fingerprint reveals nothing of the key. Rows are added and never changed.

CREATE TABLE IF NOT EXISTS auth.encryption_keks (
    kek_id       TEXT PRIMARY KEY,
    fingerprint  TEXT NOT NULL,
    recorded_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);

COMMENT ON TABLE auth.encryption_keks IS 'The fingerprint of the key material behind each kek_id';

REVOKE ALL ON auth.encryption_keks FROM PUBLIC, custody_app, custody_rewrap;
GRANT SELECT ON auth.encryption_keks TO custody_app, custody_rewrap;
GRANT INSERT (kek_id, fingerprint) ON auth.encryption_keks TO custody_app;

-- Before the first fingerprint of a kek_id is recorded, the daemon must open a row that carries
-- it; row-level security hides all rows from it. This function shows a few wraps of exactly such
-- a kek_id, and none any more once its fingerprint is there. The owner is under FORCE as well:
-- its policy lets it see nothing but what the function asks for.
DROP POLICY IF EXISTS encryption_vaults_kek_sample ON auth.encryption_vaults;
CREATE POLICY encryption_vaults_kek_sample ON auth.encryption_vaults
    FOR SELECT TO CURRENT_USER
    USING (kek_id = nullif(current_setting('custody.sampled_kek_id', true), ''));

CREATE OR REPLACE FUNCTION auth.custody_sample_wraps(wanted TEXT)
    RETURNS TABLE (user_id TEXT, wrapped_mk TEXT, wrap_iv TEXT, format_version SMALLINT)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM auth.encryption_keks AS known WHERE known.kek_id = wanted) THEN
        RETURN;
    END IF;
    PERFORM set_config('custody.sampled_kek_id', wanted, true);
    RETURN QUERY
        SELECT vault.user_id, vault.wrapped_mk, vault.wrap_iv, vault.format_version
        FROM auth.encryption_vaults AS vault
        WHERE vault.kek_id = wanted AND vault.wrapped_mk IS NOT NULL
        -- Not the first ones: damage may lie in one place.
        ORDER BY random()
        LIMIT 64;
    PERFORM set_config('custody.sampled_kek_id', '', true);
END
$$;

REVOKE ALL ON FUNCTION auth.custody_sample_wraps(TEXT) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.custody_sample_wraps(TEXT) TO custody_app;
