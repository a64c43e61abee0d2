-- auth.encryption_keks becomes the registry of KEKs: which there are, which one wraps, and which
-- are retired, so that nothing can ever be wrapped under them again.

ALTER TABLE auth.encryption_keks
    -- The material of a KEK in a KMS may show nothing that identifies it.
    ALTER COLUMN fingerprint DROP NOT NULL,
    ADD COLUMN IF NOT EXISTS backend TEXT,
    ADD COLUMN IF NOT EXISTS locator TEXT,
    ADD COLUMN IF NOT EXISTS state TEXT NOT NULL DEFAULT 'decrypt-only',
    ADD COLUMN IF NOT EXISTS activated_at TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS retired_at TIMESTAMPTZ;

COMMENT ON TABLE auth.encryption_keks IS 'The KEKs behind the kek_ids: their material''s fingerprint, and their state';
COMMENT ON COLUMN auth.encryption_keks.fingerprint IS 'Identifies the key material; NULL where a KMS shows none';
COMMENT ON COLUMN auth.encryption_keks.locator IS 'The KEK URI; it holds no secret';
COMMENT ON COLUMN auth.encryption_keks.state IS 'active: new wraps are made under it. decrypt-only. retired: for good';

ALTER TABLE auth.encryption_keks DROP CONSTRAINT IF EXISTS encryption_keks_state;
ALTER TABLE auth.encryption_keks ADD CONSTRAINT encryption_keks_state
    CHECK (state IN ('active', 'decrypt-only', 'retired'));
ALTER TABLE auth.encryption_keks DROP CONSTRAINT IF EXISTS encryption_keks_retired_at;
ALTER TABLE auth.encryption_keks ADD CONSTRAINT encryption_keks_retired_at
    CHECK ((state = 'retired') = (retired_at IS NOT NULL));

REVOKE ALL ON auth.encryption_keks FROM PUBLIC, custody_app, custody_rewrap;
GRANT SELECT ON auth.encryption_keks TO custody_app, custody_rewrap;

-- For whoever writes here, psql included: a record stays, what a kek_id stands for never changes,
-- and retired is the end.
CREATE OR REPLACE FUNCTION auth.custody_keep_kek() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP IN ('DELETE', 'TRUNCATE') THEN
        RAISE EXCEPTION 'the record of a KEK is never removed'
            USING ERRCODE = 'restrict_violation', HINT = 'To end its use: custody kek retire KEK_ID';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF OLD.state = 'retired' AND NEW IS DISTINCT FROM OLD THEN
            RAISE EXCEPTION 'the KEK % is retired, and that is for good', OLD.kek_id
                USING ERRCODE = 'restrict_violation', HINT = 'Give a new key a new kek_id.';
        END IF;
        IF NEW.kek_id <> OLD.kek_id
           OR OLD.fingerprint IS NOT NULL AND NEW.fingerprint IS DISTINCT FROM OLD.fingerprint THEN
            RAISE EXCEPTION 'what the kek_id % stands for never changes', OLD.kek_id
                USING ERRCODE = 'restrict_violation', HINT = 'Give a new key a new kek_id.';
        END IF;
    END IF;
    -- Waits for every transaction that has written a wrap under it; see custody_refuse_retired_kek.
    IF NEW.state = 'retired' THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('custody kek ' || NEW.kek_id, 0));
    END IF;
    RETURN NEW;
END
$$;

DROP TRIGGER IF EXISTS encryption_keks_keep ON auth.encryption_keks;
CREATE TRIGGER encryption_keks_keep BEFORE INSERT OR UPDATE OR DELETE ON auth.encryption_keks
    FOR EACH ROW EXECUTE FUNCTION auth.custody_keep_kek();
DROP TRIGGER IF EXISTS encryption_keks_keep_all ON auth.encryption_keks;
CREATE TRIGGER encryption_keks_keep_all BEFORE TRUNCATE ON auth.encryption_keks
    FOR EACH STATEMENT EXECUTE FUNCTION auth.custody_keep_kek();

-- No wrap is ever written under a retired KEK, whoever writes. The lock is held to the end of the
-- transaction, shared among writers; a retirement takes it alone. So either it sees this row, or
-- this writer waits for its end, and then sees it: in READ COMMITTED each statement below has a
-- snapshot of its own, taken after the wait. The stricter levels would look at an older one. It
-- runs with the rights of the writer: one that may not read the registry may not write wraps, and
-- row_security = off makes rows that are hidden an error.
CREATE OR REPLACE FUNCTION auth.custody_refuse_retired_kek() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
BEGIN
    IF NEW.wrapped_mk IS NULL THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.wrapped_mk, NEW.wrap_iv, NEW.format_version, NEW.kek_id)
           IS NOT DISTINCT FROM (OLD.wrapped_mk, OLD.wrap_iv, OLD.format_version, OLD.kek_id) THEN
            RETURN NEW;
        END IF;
    END IF;
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'a wrap is written in READ COMMITTED only'
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'An older snapshot could miss that its KEK was retired.';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('custody kek ' || NEW.kek_id, 0));
    IF EXISTS (SELECT 1 FROM auth.encryption_keks AS kek
               WHERE kek.kek_id = NEW.kek_id AND kek.state = 'retired') THEN
        RAISE EXCEPTION 'the KEK % is retired: no wrap may be written under it', NEW.kek_id
            USING ERRCODE = 'KEK01', HINT = 'Set CUSTODY_KEK to another KEK.';
    END IF;
    RETURN NEW;
END
$$;

DROP TRIGGER IF EXISTS encryption_vaults_refuse_retired_kek ON auth.encryption_vaults;
CREATE TRIGGER encryption_vaults_refuse_retired_kek BEFORE INSERT OR UPDATE ON auth.encryption_vaults
    FOR EACH ROW EXECUTE FUNCTION auth.custody_refuse_retired_kek();

CREATE INDEX IF NOT EXISTS encryption_vaults_kek_id_idx
    ON auth.encryption_vaults (kek_id, user_id) WHERE wrapped_mk IS NOT NULL;

-- The owner is under FORCE as well: it sees what the functions below ask for, while they ask.
DROP POLICY IF EXISTS encryption_vaults_kek_sample ON auth.encryption_vaults;
CREATE POLICY encryption_vaults_kek_sample ON auth.encryption_vaults
    FOR SELECT TO CURRENT_USER
    USING (kek_id = nullif(current_setting('custody.sampled_kek_id', true), '')
           OR current_setting('custody.scans_kek_ids', true) = 'on');

-- As in 0005, but it goes by the fingerprint: a KEK may be registered before it has one.
CREATE OR REPLACE FUNCTION auth.custody_sample_wraps(wanted TEXT)
    RETURNS TABLE (user_id TEXT, wrapped_mk TEXT, wrap_iv TEXT, format_version SMALLINT)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM auth.encryption_keks AS known
               WHERE known.kek_id = wanted AND known.fingerprint IS NOT NULL) THEN
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

-- Adds a kek_id, or completes what is recorded of it, and says what is recorded then. Where other
-- key material is recorded, or it is retired, nothing changes: the caller must compare.
CREATE OR REPLACE FUNCTION auth.custody_register_kek(
        wanted TEXT, its_backend TEXT, its_locator TEXT, its_fingerprint TEXT, is_active BOOLEAN)
    RETURNS TABLE (fingerprint TEXT, state TEXT)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    -- Two at once would both become the active one. Nobody who reads waits for this lock.
    LOCK TABLE auth.encryption_keks IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO auth.encryption_keks (kek_id, fingerprint)
        SELECT wanted, its_fingerprint
        WHERE NOT EXISTS (SELECT 1 FROM auth.encryption_keks AS kek WHERE kek.kek_id = wanted);
    IF EXISTS (SELECT 1 FROM auth.encryption_keks AS kek
               WHERE kek.kek_id = wanted
                   AND (kek.state = 'retired' OR kek.fingerprint <> its_fingerprint)) THEN
        RETURN QUERY SELECT kek.fingerprint, kek.state FROM auth.encryption_keks AS kek
                     WHERE kek.kek_id = wanted;
        RETURN;
    END IF;
    UPDATE auth.encryption_keks AS kek
        SET fingerprint = coalesce(kek.fingerprint, its_fingerprint),
            backend = coalesce(its_backend, kek.backend),
            locator = coalesce(its_locator, kek.locator)
        WHERE kek.kek_id = wanted
            AND (coalesce(kek.fingerprint, its_fingerprint), coalesce(its_backend, kek.backend),
                 coalesce(its_locator, kek.locator))
                IS DISTINCT FROM (kek.fingerprint, kek.backend, kek.locator);
    IF is_active THEN
        UPDATE auth.encryption_keks AS kek SET state = 'decrypt-only'
            WHERE kek.state = 'active' AND kek.kek_id <> wanted;
        UPDATE auth.encryption_keks AS kek SET state = 'active', activated_at = now()
            WHERE kek.state <> 'active' AND kek.kek_id = wanted;
    END IF;
    RETURN QUERY SELECT kek.fingerprint, kek.state FROM auth.encryption_keks AS kek
                 WHERE kek.kek_id = wanted;
END
$$;

-- Answers retired (now), already-retired, active or in-use (both refused), or unknown (nothing done).
CREATE OR REPLACE FUNCTION auth.custody_retire_kek(wanted TEXT) RETURNS TEXT
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    its_state TEXT;
    answer TEXT;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'a KEK is retired in READ COMMITTED only'
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'An older snapshot could miss a row that was wrapped under it.';
    END IF;
    PERFORM set_config('custody.sampled_kek_id', wanted, true);
    -- The first look takes no lock, so that an attempt in vain holds up no writer. The second one
    -- comes after the writers: see custody_refuse_retired_kek.
    FOR look IN 1..2 LOOP
        SELECT kek.state INTO its_state FROM auth.encryption_keks AS kek WHERE kek.kek_id = wanted;
        answer := CASE
            WHEN its_state = 'retired' THEN 'already-retired'
            WHEN its_state = 'active' THEN 'active'
            WHEN EXISTS (SELECT 1 FROM auth.encryption_vaults AS vault
                         WHERE vault.kek_id = wanted AND vault.wrapped_mk IS NOT NULL) THEN 'in-use'
            WHEN its_state IS NULL
                AND NOT EXISTS (SELECT 1 FROM auth.encryption_vaults AS vault
                                WHERE vault.kek_id = wanted) THEN 'unknown'
        END;
        EXIT WHEN answer IS NOT NULL OR look = 2;
        PERFORM pg_advisory_xact_lock(hashtextextended('custody kek ' || wanted, 0));
        LOCK TABLE auth.encryption_keks IN SHARE ROW EXCLUSIVE MODE;
    END LOOP;
    PERFORM set_config('custody.sampled_kek_id', '', true);
    IF answer IS NULL THEN
        INSERT INTO auth.encryption_keks (kek_id, state, retired_at) VALUES (wanted, 'retired', now())
            ON CONFLICT (kek_id) DO UPDATE SET state = 'retired', retired_at = now();
        answer := 'retired';
    END IF;
    RETURN answer;
END
$$;

-- The kek_ids of all wraps, by one probe of the index for each of them, not for each row.
CREATE OR REPLACE FUNCTION auth.custody_keks_in_use() RETURNS SETOF TEXT
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('custody.scans_kek_ids', 'on', true);
    RETURN QUERY
        WITH RECURSIVE found (kek_id) AS (
            (SELECT vault.kek_id FROM auth.encryption_vaults AS vault
             WHERE vault.wrapped_mk IS NOT NULL
             ORDER BY vault.kek_id LIMIT 1)
            UNION ALL
            SELECT (SELECT vault.kek_id FROM auth.encryption_vaults AS vault
                    WHERE vault.wrapped_mk IS NOT NULL AND vault.kek_id > found.kek_id
                    ORDER BY vault.kek_id LIMIT 1)
            FROM found WHERE found.kek_id IS NOT NULL
        )
        SELECT found.kek_id FROM found WHERE found.kek_id IS NOT NULL;
    PERFORM set_config('custody.scans_kek_ids', '', true);
END
$$;

REVOKE ALL ON FUNCTION auth.custody_sample_wraps(TEXT) FROM PUBLIC, custody_rewrap;
REVOKE ALL ON FUNCTION auth.custody_register_kek(TEXT, TEXT, TEXT, TEXT, BOOLEAN)
    FROM PUBLIC, custody_rewrap;
REVOKE ALL ON FUNCTION auth.custody_retire_kek(TEXT) FROM PUBLIC, custody_app;
REVOKE ALL ON FUNCTION auth.custody_keks_in_use() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.custody_sample_wraps(TEXT) TO custody_app;
GRANT EXECUTE ON FUNCTION auth.custody_register_kek(TEXT, TEXT, TEXT, TEXT, BOOLEAN) TO custody_app;
GRANT EXECUTE ON FUNCTION auth.custody_retire_kek(TEXT) TO custody_rewrap;
GRANT EXECUTE ON FUNCTION auth.custody_keks_in_use() TO custody_app, custody_rewrap;
