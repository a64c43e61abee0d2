-- Wraps of format 3 are bound to the generation of their row as well: who unwraps must know it.

GRANT SELECT (generation) ON auth.encryption_vaults TO custody_rewrap;

COMMENT ON COLUMN auth.encryption_vaults.format_version IS
    '3: bound to user, generation, purpose and kek_id. Read only: 1, AES-256-GCM, not bound; 2, bound to the user';

-- As custody_sample_wraps in 0006, with the generation. Under another name: what a function returns
-- can't be changed, and each file must run again; daemons of before still ask the old one.
CREATE OR REPLACE FUNCTION auth.custody_sample_rows(wanted TEXT)
    RETURNS TABLE (user_id TEXT, generation BIGINT, wrapped_mk TEXT, wrap_iv TEXT, format_version SMALLINT)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM auth.encryption_keks AS known
               WHERE known.kek_id = wanted AND known.fingerprint IS NOT NULL) THEN
        RETURN;
    END IF;
    PERFORM set_config('custody.sampled_kek_id', wanted, true);
    RETURN QUERY
        SELECT vault.user_id, vault.generation, vault.wrapped_mk, vault.wrap_iv, vault.format_version
        FROM auth.encryption_vaults AS vault
        WHERE vault.kek_id = wanted AND vault.wrapped_mk IS NOT NULL
        -- Not the first ones: damage may lie in one place.
        ORDER BY random()
        LIMIT 64;
    PERFORM set_config('custody.sampled_kek_id', '', true);
END
$$;

REVOKE ALL ON FUNCTION auth.custody_sample_rows(TEXT) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.custody_sample_rows(TEXT) TO custody_app, custody_rewrap;
