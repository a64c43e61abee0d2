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

-- Data keys, in the database only wrapped under a KEK, and the seals that are made with them.

ALTER TABLE auth.encryption_vaults ADD COLUMN IF NOT EXISTS seal TEXT;
CREATE INDEX IF NOT EXISTS encryption_vaults_unsealed_idx ON auth.encryption_vaults (user_id) WHERE seal IS NULL;

CREATE TABLE IF NOT EXISTS auth.encryption_data_keys (
    id          TEXT PRIMARY KEY,
    seal        TEXT NOT NULL,
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    lost_at     TIMESTAMPTZ
);
ALTER TABLE auth.encryption_data_keys DROP CONSTRAINT IF EXISTS encryption_data_keys_id;
ALTER TABLE auth.encryption_data_keys ADD CONSTRAINT encryption_data_keys_id CHECK (id ~ '^dk-[0-9a-f]{32}$');
CREATE TABLE IF NOT EXISTS auth.encryption_data_key_wraps (
    data_key_id     TEXT NOT NULL REFERENCES auth.encryption_data_keys (id) ON DELETE CASCADE,
    kek_id          TEXT NOT NULL,
    wrapped_key     TEXT NOT NULL,
    wrap_iv         TEXT NOT NULL,
    format_version  SMALLINT NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (data_key_id, kek_id)
);
REVOKE ALL ON auth.encryption_data_keys, auth.encryption_data_key_wraps FROM PUBLIC, custody_app, custody_rewrap;
GRANT SELECT ON auth.encryption_data_keys, auth.encryption_data_key_wraps TO custody_app, custody_rewrap;

-- As custody_refuse_retired_kek, for the wraps of data keys.
CREATE OR REPLACE FUNCTION auth.custody_refuse_retired_data_key_wrap() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'a wrap is written in READ COMMITTED only' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('custody kek ' || NEW.kek_id, 0));
    IF EXISTS (SELECT 1 FROM auth.encryption_keks AS kek WHERE kek.kek_id = NEW.kek_id AND kek.state = 'retired') THEN
        RAISE EXCEPTION 'the KEK % is retired: no wrap may be written under it', NEW.kek_id USING ERRCODE = 'KEK01';
    END IF;
    RETURN NEW;
END
$$;
DROP TRIGGER IF EXISTS encryption_data_key_wraps_refuse_retired ON auth.encryption_data_key_wraps;
CREATE TRIGGER encryption_data_key_wraps_refuse_retired BEFORE INSERT OR UPDATE ON auth.encryption_data_key_wraps
    FOR EACH ROW EXECUTE FUNCTION auth.custody_refuse_retired_data_key_wrap();

-- As in 0006, and for the functions below: the functions' owner reads by it.
DROP POLICY IF EXISTS encryption_vaults_kek_sample ON auth.encryption_vaults;
CREATE POLICY encryption_vaults_kek_sample ON auth.encryption_vaults FOR SELECT TO CURRENT_USER
    USING (kek_id = nullif(current_setting('custody.sampled_kek_id', true), '')
           OR current_setting('custody.scans_kek_ids', true) = 'on'
           OR (seal IS NOT NULL AND current_setting('custody.looks_for_seals', true) = 'on')
           OR (seal IS NULL AND current_setting('custody.counts_unsealed', true) = 'on'));

-- Answers with the id of the data key that is there, or of this one when it was added; NULL where rows are sealed
-- and no record is good: a new key could not judge them. bad: ids that the caller found to be no data keys.
CREATE OR REPLACE FUNCTION auth.custody_add_data_key(
        new_id TEXT, its_seal TEXT, its_kek_id TEXT, its_wrapped_key TEXT, its_wrap_iv TEXT, bad TEXT[]) RETURNS TEXT
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    there TEXT;
    are_sealed BOOLEAN;
BEGIN
    LOCK TABLE auth.encryption_data_keys IN SHARE ROW EXCLUSIVE MODE;
    SELECT key.id INTO there FROM auth.encryption_data_keys AS key
        WHERE key.id <> ALL (bad) AND key.lost_at IS NULL ORDER BY key.id LIMIT 1;
    IF there IS NOT NULL THEN
        RETURN there;
    END IF;
    PERFORM set_config('custody.looks_for_seals', 'on', true);
    SELECT EXISTS (SELECT 1 FROM auth.encryption_vaults AS vault
                   WHERE vault.seal IS NOT NULL
                     AND NOT EXISTS (SELECT 1 FROM auth.encryption_data_keys AS lost
                                     WHERE lost.lost_at IS NOT NULL AND starts_with(vault.seal, '1.' || lost.id || '.')))
        INTO are_sealed;
    PERFORM set_config('custody.looks_for_seals', '', true);
    IF are_sealed THEN
        RETURN NULL;
    END IF;
    IF (SELECT count(*) FROM auth.encryption_data_keys) >= 16 THEN
        RAISE EXCEPTION 'there are 16 records of data keys' USING ERRCODE = 'restrict_violation',
            HINT = 'Remove those that are not yours: custody kek forget dk-…';
    END IF;
    INSERT INTO auth.encryption_data_keys (id, seal) VALUES (new_id, its_seal);
    INSERT INTO auth.encryption_data_key_wraps (data_key_id, kek_id, wrapped_key, wrap_iv, format_version)
        VALUES (new_id, its_kek_id, its_wrapped_key, its_wrap_iv, 3);
    RETURN new_id;
END
$$;

-- A wrap under one more KEK; where there is one already, only instead of exactly that one.
CREATE OR REPLACE FUNCTION auth.custody_put_data_key_wrap(
        its_id TEXT, its_kek_id TEXT, its_wrapped_key TEXT, its_wrap_iv TEXT, instead_of TEXT) RETURNS BOOLEAN
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    INSERT INTO auth.encryption_data_key_wraps AS there (data_key_id, kek_id, wrapped_key, wrap_iv, format_version)
        VALUES (its_id, its_kek_id, its_wrapped_key, its_wrap_iv, 3)
        ON CONFLICT (data_key_id, kek_id) DO UPDATE
            SET wrapped_key = excluded.wrapped_key, wrap_iv = excluded.wrap_iv, format_version = 3, created_at = now()
            WHERE there.wrapped_key = instead_of;
    RETURN FOUND;
END
$$;

-- Takes one wrap away, while there is one under another KEK.
CREATE OR REPLACE FUNCTION auth.custody_drop_data_key_wrap(its_id TEXT, its_kek_id TEXT, keeps TEXT) RETURNS BOOLEAN
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    -- The one that is kept can't go at the same moment.
    PERFORM 1 FROM auth.encryption_data_key_wraps WHERE data_key_id = its_id AND kek_id = keeps AND kek_id <> its_kek_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM auth.encryption_data_key_wraps WHERE data_key_id = its_id AND kek_id = its_kek_id;
    RETURN FOUND;
END
$$;
REVOKE ALL ON FUNCTION auth.custody_add_data_key(TEXT, TEXT, TEXT, TEXT, TEXT, TEXT[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION auth.custody_put_data_key_wrap(TEXT, TEXT, TEXT, TEXT, TEXT) FROM PUBLIC;
REVOKE ALL ON FUNCTION auth.custody_drop_data_key_wrap(TEXT, TEXT, TEXT) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.custody_add_data_key(TEXT, TEXT, TEXT, TEXT, TEXT, TEXT[]) TO custody_app, custody_rewrap;
GRANT EXECUTE ON FUNCTION auth.custody_put_data_key_wrap(TEXT, TEXT, TEXT, TEXT, TEXT) TO custody_rewrap;
GRANT EXECUTE ON FUNCTION auth.custody_drop_data_key_wrap(TEXT, TEXT, TEXT) TO custody_rewrap;

-- How many rows are not sealed yet, counted to 100,001.
CREATE OR REPLACE FUNCTION auth.custody_count_unsealed() RETURNS TABLE (wraps BIGINT, zero_knowledge BIGINT)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('custody.counts_unsealed', 'on', true);
    RETURN QUERY
        SELECT count(*) FILTER (WHERE NOT unsealed.zk), count(*) FILTER (WHERE unsealed.zk)
        FROM (SELECT vault.zero_knowledge AS zk FROM auth.encryption_vaults AS vault WHERE vault.seal IS NULL LIMIT 100001) AS unsealed;
    PERFORM set_config('custody.counts_unsealed', '', true);
END
$$;
REVOKE ALL ON FUNCTION auth.custody_count_unsealed() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.custody_count_unsealed() TO custody_app, custody_rewrap;
