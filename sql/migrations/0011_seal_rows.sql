-- Rows are sealed: what a wrap can't hold by itself (mode, generation, key check value, recovery wrap)
-- is under a MAC that the database can't make. Its key comes of a data key of the service's own, which
-- the database has only wrapped. What holds rows to their seals is in 0012.

ALTER TABLE auth.encryption_vaults
    ADD COLUMN IF NOT EXISTS seal TEXT,
    ADD COLUMN IF NOT EXISTS seal_serial BIGINT NOT NULL DEFAULT 0;

COMMENT ON COLUMN auth.encryption_vaults.seal IS 'MAC of what is believed of the row, with the id of its data key in front; NULL: a legacy row';
COMMENT ON COLUMN auth.encryption_vaults.seal_serial IS 'How often what is sealed was changed; in the seal';
COMMENT ON COLUMN auth.encryption_vaults.format_version IS
    '3: bound to user, generation, purpose and kek_id. Read only: 1, AES-256-GCM, not bound; 2, bound to the user';

DROP INDEX IF EXISTS auth.encryption_vaults_unsealed_idx;
CREATE INDEX encryption_vaults_unsealed_idx ON auth.encryption_vaults (user_id) WHERE seal IS NULL;

-- Nobody may write seal_serial. The worker binds what it wraps to the generation, and makes no seal.
GRANT INSERT (seal), UPDATE (seal) ON auth.encryption_vaults TO custody_app;
GRANT SELECT (generation, seal) ON auth.encryption_vaults TO custody_rewrap;

CREATE TABLE IF NOT EXISTS auth.encryption_data_keys (
    id          TEXT PRIMARY KEY,
    seal        TEXT NOT NULL
);
ALTER TABLE auth.encryption_data_keys
    ADD COLUMN IF NOT EXISTS created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS lost_at TIMESTAMPTZ;

COMMENT ON TABLE auth.encryption_data_keys IS 'Keys of the service''s own: rows are sealed under them';
COMMENT ON COLUMN auth.encryption_data_keys.id IS 'dk- and a UUIDv7 in hexadecimal: ids grow with time';
COMMENT ON COLUMN auth.encryption_data_keys.seal IS 'Made by the key itself: whatever wrap it comes out of, it is this one';
COMMENT ON COLUMN auth.encryption_data_keys.created_at IS 'For people; never believed';
COMMENT ON COLUMN auth.encryption_data_keys.lost_at IS 'Since when no KEK that opens it exists any more; set by the owner alone';

ALTER TABLE auth.encryption_data_keys DROP CONSTRAINT IF EXISTS encryption_data_keys_id;
ALTER TABLE auth.encryption_data_keys ADD CONSTRAINT encryption_data_keys_id
    CHECK (id ~ '^dk-[0-9a-f]{32}$');

CREATE TABLE IF NOT EXISTS auth.encryption_data_key_wraps (
    data_key_id     TEXT NOT NULL REFERENCES auth.encryption_data_keys (id) ON DELETE CASCADE,
    kek_id          TEXT NOT NULL,
    wrapped_key     TEXT NOT NULL,
    wrap_iv         TEXT NOT NULL,
    format_version  SMALLINT NOT NULL,
    PRIMARY KEY (data_key_id, kek_id)
);
ALTER TABLE auth.encryption_data_key_wraps
    ADD COLUMN IF NOT EXISTS created_at TIMESTAMPTZ NOT NULL DEFAULT now();

COMMENT ON TABLE auth.encryption_data_key_wraps IS 'Each data key under one KEK or several';

ALTER TABLE auth.encryption_data_key_wraps DROP CONSTRAINT IF EXISTS encryption_data_key_wraps_format;
ALTER TABLE auth.encryption_data_key_wraps ADD CONSTRAINT encryption_data_key_wraps_format
    CHECK (format_version >= 3);

-- Written by functions alone, and by the owner.
REVOKE ALL ON auth.encryption_data_keys, auth.encryption_data_key_wraps
    FROM PUBLIC, custody_app, custody_rewrap;
GRANT SELECT ON auth.encryption_data_keys, auth.encryption_data_key_wraps TO custody_app, custody_rewrap;

-- As custody_refuse_retired_kek of 0006, which says why it is safe, for the wraps of data keys.
CREATE OR REPLACE FUNCTION auth.custody_refuse_retired_data_key_wrap() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
BEGIN
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

DROP TRIGGER IF EXISTS encryption_data_key_wraps_refuse_retired ON auth.encryption_data_key_wraps;
CREATE TRIGGER encryption_data_key_wraps_refuse_retired
    BEFORE INSERT OR UPDATE ON auth.encryption_data_key_wraps
    FOR EACH ROW EXECUTE FUNCTION auth.custody_refuse_retired_data_key_wrap();

-- The owner is under FORCE as well: it sees what the functions below and those of 0006 ask for, while
-- they ask.
DROP POLICY IF EXISTS encryption_vaults_kek_sample ON auth.encryption_vaults;
CREATE POLICY encryption_vaults_kek_sample ON auth.encryption_vaults
    FOR SELECT TO CURRENT_USER
    USING (kek_id = nullif(current_setting('custody.sampled_kek_id', true), '')
           OR current_setting('custody.scans_kek_ids', true) = 'on'
           OR seal IS NOT NULL AND current_setting('custody.looks_for_seals', true) = 'on'
           OR seal IS NULL AND current_setting('custody.counts_unsealed', true) = 'on');

-- And writes what it brings over. Not "seal IS NULL": a row that was brought over is sealed.
DROP POLICY IF EXISTS encryption_vaults_bring_over ON auth.encryption_vaults;
CREATE POLICY encryption_vaults_bring_over ON auth.encryption_vaults TO CURRENT_USER
    USING (current_setting('custody.brings_over', true) = 'on')
    WITH CHECK (current_setting('custody.brings_over', true) = 'on' AND seal IS NOT NULL);

-- ── data keys ────────────────────────────────────────────────────────────────────────────────────

-- Answers with the id of the data key that is there, or of this one, which was added then. NULL where
-- rows are sealed and no record is good: a new key could not judge them.
-- bad: ids that the caller found to be no data keys of ours.
CREATE OR REPLACE FUNCTION auth.custody_add_data_key(
        new_id TEXT, its_seal TEXT, its_kek_id TEXT, its_wrapped_key TEXT, its_wrap_iv TEXT, bad TEXT[])
    RETURNS TEXT
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    there TEXT;
    are_sealed BOOLEAN;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'a data key is added in READ COMMITTED only'
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'An older snapshot could miss the one that is there.';
    END IF;
    -- Many first boots at once make one. Nobody who reads waits for this lock.
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
                                       WHERE lost.lost_at IS NOT NULL
                                           AND starts_with(vault.seal, '1.' || lost.id || '.')))
        INTO are_sealed;
    PERFORM set_config('custody.looks_for_seals', '', true);
    IF are_sealed THEN
        RETURN NULL;
    END IF;
    IF (SELECT count(*) FROM auth.encryption_data_keys) >= 16 THEN
        RAISE EXCEPTION 'there are 16 records of data keys, and none of them is good'
            USING ERRCODE = 'restrict_violation',
                  HINT = 'Remove those that are not yours: custody kek forget ID';
    END IF;
    INSERT INTO auth.encryption_data_keys (id, seal) VALUES (new_id, its_seal);
    INSERT INTO auth.encryption_data_key_wraps (data_key_id, kek_id, wrapped_key, wrap_iv, format_version)
        VALUES (new_id, its_kek_id, its_wrapped_key, its_wrap_iv, 3);
    RETURN new_id;
END
$$;

-- Puts a wrap under one more KEK. Where there is one already: only instead of exactly that one, so that
-- neither junk is in the way nor a good wrap is lost to a race.
CREATE OR REPLACE FUNCTION auth.custody_put_data_key_wrap(
        its_id TEXT, its_kek_id TEXT, its_wrapped_key TEXT, its_wrap_iv TEXT, instead_of TEXT)
    RETURNS BOOLEAN
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    INSERT INTO auth.encryption_data_key_wraps AS there
            (data_key_id, kek_id, wrapped_key, wrap_iv, format_version)
        VALUES (its_id, its_kek_id, its_wrapped_key, its_wrap_iv, 3)
        ON CONFLICT (data_key_id, kek_id) DO UPDATE
            SET wrapped_key = excluded.wrapped_key, wrap_iv = excluded.wrap_iv, format_version = 3,
                created_at = now()
            WHERE there.wrapped_key = instead_of;
    RETURN FOUND;
END
$$;

-- Takes one wrap away, while there is one under another KEK.
CREATE OR REPLACE FUNCTION auth.custody_drop_data_key_wrap(its_id TEXT, its_kek_id TEXT, keeps TEXT)
    RETURNS BOOLEAN
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    -- Locked: the one that is kept can't go at the same moment.
    PERFORM 1 FROM auth.encryption_data_key_wraps
        WHERE data_key_id = its_id AND kek_id = keeps AND kek_id <> its_kek_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM auth.encryption_data_key_wraps WHERE data_key_id = its_id AND kek_id = its_kek_id;
    RETURN FOUND;
END
$$;

-- ── rows that are not sealed yet ─────────────────────────────────────────────────────────────────

-- How many there are, with a wrap and in zero-knowledge mode; counted to 100,001 in all.
CREATE OR REPLACE FUNCTION auth.custody_count_unsealed()
    RETURNS TABLE (wraps BIGINT, zero_knowledge BIGINT)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('custody.counts_unsealed', 'on', true);
    RETURN QUERY
        SELECT count(*) FILTER (WHERE NOT unsealed.is_zk), count(*) FILTER (WHERE unsealed.is_zk)
        FROM (SELECT vault.zero_knowledge AS is_zk FROM auth.encryption_vaults AS vault
              WHERE vault.seal IS NULL LIMIT 100001) AS unsealed;
    PERFORM set_config('custody.counts_unsealed', '', true);
END
$$;

-- A page of them, in the order of users, with all that a seal is made of: the recovery wrap only as its
-- digest, as it goes into the seal. When every row is sealed, it shows nothing any more.
-- its_kek_id, its_format: of the wraps. Format 0: the rest, which need no new wrap.
CREATE OR REPLACE FUNCTION auth.custody_read_unsealed(
        its_kek_id TEXT, its_format SMALLINT, above TEXT, up_to TEXT, most INTEGER)
    RETURNS TABLE (user_id TEXT, wrapped_mk TEXT, wrap_iv TEXT, format_version SMALLINT, kek_id TEXT,
                   generation BIGINT, zero_knowledge BOOLEAN, key_check TEXT, recovery_digest TEXT,
                   recovery_format_version SMALLINT, recovery_set_at TIMESTAMPTZ, seal_serial BIGINT,
                   row_version BIGINT)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('custody.brings_over', 'on', true);
    RETURN QUERY
        SELECT vault.user_id, vault.wrapped_mk, vault.wrap_iv, vault.format_version, vault.kek_id,
               vault.generation, vault.zero_knowledge, vault.key_check,
               CASE WHEN vault.recovery_wrapped_mk IS NOT NULL THEN
                   encode(sha256(convert_to(
                       format('%s:%s%s:%s',
                              octet_length(vault.recovery_wrapped_mk), vault.recovery_wrapped_mk,
                              octet_length(vault.recovery_iv), vault.recovery_iv),
                       'UTF8')), 'hex')
               END,
               vault.recovery_format_version, vault.recovery_set_at, vault.seal_serial, vault.row_version
        FROM auth.encryption_vaults AS vault
        WHERE vault.seal IS NULL AND vault.quarantined_at IS NULL
            AND vault.user_id > above AND (up_to IS NULL OR vault.user_id <= up_to)
            AND CASE WHEN its_format = 0 THEN vault.wrapped_mk IS NULL OR vault.format_version >= 3
                     ELSE vault.wrapped_mk IS NOT NULL AND vault.kek_id = its_kek_id
                         AND vault.format_version = its_format
                END
        ORDER BY vault.user_id LIMIT most;
    PERFORM set_config('custody.brings_over', '', true);
END
$$;

-- Seals rows, each only if it is as it was read and still unsealed; a row that its user is changing at
-- this moment is left out. A row with a wrap gets a new one, of format 3; a key check value is added and
-- never replaced. Returns how many. began: when the run began, as in sql/queries/store_rewrapped.sql
CREATE OR REPLACE FUNCTION auth.custody_seal_rows(
        users TEXT[], versions BIGINT[], wraps TEXT[], nonces TEXT[], kek_ids TEXT[], checks TEXT[],
        seals TEXT[], began TIMESTAMPTZ)
    RETURNS BIGINT
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stored BIGINT;
BEGIN
    PERFORM set_config('custody.brings_over', 'on', true);
    WITH free AS MATERIALIZED (
        SELECT made.*
        FROM unnest(users, versions, wraps, nonces, kek_ids, checks, seals)
                AS made (user_id, row_version, wrapped_mk, wrap_iv, kek_id, key_check, seal)
            -- Each is looked up. The planner takes the rows that are not sealed for a few, and in a join
            -- would compare all of them with each of the batch.
            CROSS JOIN LATERAL (
                SELECT 1 FROM auth.encryption_vaults AS vault
                WHERE vault.user_id = made.user_id AND vault.row_version = made.row_version
                    AND vault.seal IS NULL
                    AND (vault.wrapped_mk IS NULL) = (made.wrapped_mk IS NULL)
                    AND made.seal IS NOT NULL
                FOR UPDATE SKIP LOCKED
            ) AS vault
    )
    UPDATE auth.encryption_vaults AS vault
    SET wrapped_mk = free.wrapped_mk, wrap_iv = free.wrap_iv,
        format_version = CASE WHEN free.wrapped_mk IS NULL THEN vault.format_version ELSE 3 END,
        kek_id = CASE WHEN free.wrapped_mk IS NULL THEN vault.kek_id ELSE free.kek_id END,
        key_check = coalesce(vault.key_check, free.key_check), seal = free.seal,
        -- The trigger of 0012 says the same; where the owner is a superuser it does not count.
        seal_serial = vault.seal_serial + 1,
        rewrapped_at = greatest(now(), began)
    FROM free
    WHERE vault.user_id = free.user_id AND vault.row_version = free.row_version AND vault.seal IS NULL;
    GET DIAGNOSTICS stored = ROW_COUNT;
    PERFORM set_config('custody.brings_over', '', true);
    RETURN stored;
END
$$;

-- ── reading ──────────────────────────────────────────────────────────────────────────────────────

-- As custody_read_vaults of 0010 (0009 says why each row is judged in the scope of its own user), with
-- the seal. Under a name of its own, since the columns of a function can't change in place.
DROP FUNCTION IF EXISTS auth.custody_read_vaults(TEXT[]);
CREATE OR REPLACE FUNCTION auth.custody_find_vaults(wanted TEXT[])
    RETURNS TABLE (place INTEGER, clock DOUBLE PRECISION, known BOOLEAN, user_id TEXT,
                   wrapped_mk TEXT, wrap_iv TEXT, format_version SMALLINT, kek_id TEXT,
                   recovery_wrapped_mk TEXT, recovery_iv TEXT, recovery_format_version SMALLINT,
                   recovery_set_at TIMESTAMPTZ, zero_knowledge BOOLEAN, generation BIGINT,
                   key_check TEXT, seal TEXT, seal_serial BIGINT, row_version BIGINT)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('lock_timeout', '2000', true);
    RETURN QUERY
        SELECT asked.place::integer, extract(epoch FROM clock_timestamp())::double precision,
               CASE WHEN vault.user_id IS NOT NULL OR users.known THEN true
                    ELSE EXISTS (SELECT 1 FROM auth.custody_marks WHERE table_name = 'users' AND ours)
               END,
               vault.user_id, vault.wrapped_mk, vault.wrap_iv, vault.format_version, vault.kek_id,
               vault.recovery_wrapped_mk, vault.recovery_iv, vault.recovery_format_version,
               vault.recovery_set_at, vault.zero_knowledge, vault.generation, vault.key_check,
               vault.seal, vault.seal_serial, vault.row_version
        FROM unnest(wanted) WITH ORDINALITY AS asked (user_id, place)
        CROSS JOIN LATERAL (
            SELECT set_config('app.current_user_id', asked.user_id, true) AS user_id
            WHERE asked.place IS NOT NULL OFFSET 0
        ) AS scope
        LEFT JOIN LATERAL (
            SELECT * FROM auth.encryption_vaults AS own WHERE own.user_id = scope.user_id OFFSET 0
        ) AS vault ON true
        LEFT JOIN LATERAL (
            SELECT true AS known FROM auth.users AS own
            WHERE own.id = scope.user_id AND vault.user_id IS NULL OFFSET 0
        ) AS users ON true;
    PERFORM set_config('app.current_user_id', '', true);
END
$$;

-- ── the registry of KEKs ─────────────────────────────────────────────────────────────────────────

-- A record that is not sealed, or not rightly, may be anybody's: what it says is proven anew.
ALTER TABLE auth.encryption_keks ADD COLUMN IF NOT EXISTS seal TEXT;
COMMENT ON COLUMN auth.encryption_keks.seal IS 'MAC of kek_id, backend and fingerprint, as a row''s seal';

-- As in 0006, but what a kek_id stands for may be put right while the record is not sealed, and the owner
-- may remove a record by custody_forget_kek.
CREATE OR REPLACE FUNCTION auth.custody_keep_kek() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF current_setting('custody.forgets', true) = OLD.kek_id THEN
            RETURN OLD;
        END IF;
    END IF;
    IF TG_OP IN ('DELETE', 'TRUNCATE') THEN
        RAISE EXCEPTION 'the record of a KEK is never removed'
            USING ERRCODE = 'restrict_violation',
                  HINT = 'To end its use: custody kek retire KEK_ID. If it is not yours: custody kek forget KEK_ID';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        -- A seal that does not hold may be taken off: then the owner may remove what is not its own.
        IF OLD.state = 'retired'
           AND (NEW.seal IS NOT NULL AND NEW.seal IS DISTINCT FROM OLD.seal
                OR to_jsonb(NEW) - 'seal' IS DISTINCT FROM to_jsonb(OLD) - 'seal') THEN
            RAISE EXCEPTION 'the KEK % is retired, and that is for good', OLD.kek_id
                USING ERRCODE = 'restrict_violation', HINT = 'Give a new key a new kek_id.';
        END IF;
        IF NEW.kek_id <> OLD.kek_id
           OR OLD.fingerprint IS NOT NULL AND OLD.seal IS NOT NULL
              AND NEW.fingerprint IS DISTINCT FROM OLD.fingerprint THEN
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

-- As custody_sample_wraps of 0006, with the generation, and as long as the record is not sealed. Under a
-- name of its own, since the columns of a function can't change in place.
DROP FUNCTION IF EXISTS auth.custody_sample_wraps(TEXT);
CREATE OR REPLACE FUNCTION auth.custody_sample_rows(wanted TEXT)
    RETURNS TABLE (user_id TEXT, generation BIGINT, wrapped_mk TEXT, wrap_iv TEXT,
                   format_version SMALLINT)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM auth.encryption_keks AS known
               WHERE known.kek_id = wanted AND known.fingerprint IS NOT NULL
                   AND known.seal IS NOT NULL) THEN
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

-- As in 0006, with a seal: a record that has one keeps its fingerprint, and one without counts as none
-- for a caller that brings one.
DROP FUNCTION IF EXISTS auth.custody_register_kek(TEXT, TEXT, TEXT, TEXT, BOOLEAN);
CREATE OR REPLACE FUNCTION auth.custody_register_kek(
        wanted TEXT, its_backend TEXT, its_locator TEXT, its_fingerprint TEXT, its_seal TEXT,
        is_active BOOLEAN)
    RETURNS TABLE (fingerprint TEXT, backend TEXT, state TEXT, seal TEXT)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
#variable_conflict use_column
BEGIN
    -- Two at once would both become the active one. Nobody who reads waits for this lock.
    LOCK TABLE auth.encryption_keks IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO auth.encryption_keks (kek_id)
        SELECT wanted
        WHERE NOT EXISTS (SELECT 1 FROM auth.encryption_keks AS kek WHERE kek.kek_id = wanted);
    IF EXISTS (SELECT 1 FROM auth.encryption_keks AS kek
               WHERE kek.kek_id = wanted
                   AND (kek.state = 'retired'
                        OR kek.fingerprint <> its_fingerprint
                           AND (kek.seal IS NOT NULL OR its_seal IS NULL))) THEN
        RETURN QUERY SELECT kek.fingerprint, kek.backend, kek.state, kek.seal FROM auth.encryption_keks AS kek
                     WHERE kek.kek_id = wanted;
        RETURN;
    END IF;
    UPDATE auth.encryption_keks AS kek
        SET fingerprint = made.fingerprint, backend = made.backend, locator = made.locator,
            seal = made.seal
        FROM (SELECT coalesce(its_fingerprint, there.fingerprint) AS fingerprint,
                     -- It is sealed: only with a new seal does another one come in.
                     CASE WHEN there.seal IS NOT NULL AND its_seal IS NULL THEN there.backend
                          ELSE coalesce(its_backend, there.backend) END AS backend,
                     coalesce(its_locator, there.locator) AS locator,
                     coalesce(its_seal, there.seal) AS seal
              FROM auth.encryption_keks AS there WHERE there.kek_id = wanted) AS made
        WHERE kek.kek_id = wanted
            AND (made.fingerprint, made.backend, made.locator, made.seal)
                IS DISTINCT FROM (kek.fingerprint, kek.backend, kek.locator, kek.seal);
    IF is_active THEN
        UPDATE auth.encryption_keks AS kek SET state = 'decrypt-only'
            WHERE kek.state = 'active' AND kek.kek_id <> wanted;
        UPDATE auth.encryption_keks AS kek SET state = 'active', activated_at = now()
            WHERE kek.state <> 'active' AND kek.kek_id = wanted;
    END IF;
    RETURN QUERY SELECT kek.fingerprint, kek.backend, kek.state, kek.seal FROM auth.encryption_keks AS kek
                 WHERE kek.kek_id = wanted;
END
$$;

-- Takes a seal off that does not hold, if it is still exactly that one: the record then counts as none,
-- but for a retirement, which only the owner can take back: custody_forget_kek.
CREATE OR REPLACE FUNCTION auth.custody_doubt_kek(wanted TEXT, its_seal TEXT) RETURNS BOOLEAN
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    UPDATE auth.encryption_keks AS kek SET seal = NULL
        WHERE kek.kek_id = wanted AND kek.seal = its_seal;
    RETURN FOUND;
END
$$;

-- As in 0007, and it is refused while a data key is wrapped under it. Answers retired (now),
-- already-retired, unknown (nothing done), or why it is refused: active, in-use, data-keys, written.
CREATE OR REPLACE FUNCTION auth.custody_retire_kek(wanted TEXT) RETURNS TEXT
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    its_state TEXT;
    answer TEXT;
    seen JSONB;
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
            WHEN EXISTS (SELECT 1 FROM auth.encryption_data_key_wraps AS wrap
                         WHERE wrap.kek_id = wanted) THEN 'data-keys'
            WHEN EXISTS (SELECT 1 FROM auth.custody_instances AS instance
                         WHERE instance.writes_kek_id = wanted
                             AND instance.heartbeat_at > now() - interval '1 minute') THEN 'written'
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
        -- Rows that were set aside still carry a wrap: with none in use there is none of them either.
        seen := jsonb_build_object(
            'rows', 0,
            'quarantined', 0,
            'data_keys', 0,
            'instances', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                    'host', instance.host, 'process', instance.process,
                    'writes', instance.writes_kek_id) ORDER BY instance.id), '[]')
                FROM auth.custody_instances AS instance
                WHERE instance.heartbeat_at > now() - interval '1 minute'),
            'last_run', (SELECT jsonb_build_object(
                    'id', run.id, 'target', run.target, 'state', run.state, 'done', run.done,
                    'moved', run.moved, 'failed', run.failed, 'ended_at', run.ended_at)
                FROM auth.rewrap_runs AS run ORDER BY run.id DESC LIMIT 1));
        INSERT INTO auth.encryption_keks (kek_id, state, retired_at, retirement)
            VALUES (wanted, 'retired', now(), seen)
            ON CONFLICT (kek_id) DO UPDATE
                SET state = 'retired', retired_at = now(), retirement = seen;
        answer := 'retired';
    END IF;
    RETURN answer;
END
$$;

-- As in 0006, and those of the data keys' wraps.
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
        SELECT found.kek_id FROM found WHERE found.kek_id IS NOT NULL
        UNION
        SELECT wrap.kek_id FROM auth.encryption_data_key_wraps AS wrap
        ORDER BY 1;
    PERFORM set_config('custody.scans_kek_ids', '', true);
END
$$;

-- Removes the record of a KEK, or of a data key, that nothing carries: one that somebody else put there.
-- For the owner alone, and with its rights. Answers forgotten (now), unknown (nothing done), or why it is
-- refused: in-use (rows), data-keys (wrapped under it), written (by a live daemon; a data key that is the
-- only one may be what it seals with), retired (which is for good).
CREATE OR REPLACE FUNCTION auth.custody_forget_kek(wanted TEXT) RETURNS TEXT
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    answer TEXT;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'a record is forgotten in READ COMMITTED only'
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'An older snapshot could miss what carries it.';
    END IF;
    -- After whoever has just written a wrap under it; see custody_refuse_retired_kek.
    PERFORM pg_advisory_xact_lock(hashtextextended('custody kek ' || wanted, 0));
    LOCK TABLE auth.encryption_keks, auth.encryption_data_keys IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT 1 FROM auth.encryption_data_keys AS key WHERE key.id = wanted) THEN
        PERFORM set_config('custody.looks_for_seals', 'on', true);
        answer := CASE
            WHEN EXISTS (SELECT 1 FROM auth.encryption_vaults AS vault
                         WHERE vault.seal IS NOT NULL
                             AND starts_with(vault.seal, '1.' || wanted || '.')) THEN 'in-use'
            WHEN NOT EXISTS (SELECT 1 FROM auth.encryption_data_keys AS other
                             WHERE other.id <> wanted AND other.lost_at IS NULL)
                AND EXISTS (SELECT 1 FROM auth.custody_instances AS instance
                            WHERE instance.heartbeat_at > now() - interval '1 minute') THEN 'written'
        END;
        PERFORM set_config('custody.looks_for_seals', '', true);
        IF answer IS NULL THEN
            DELETE FROM auth.encryption_data_keys AS key WHERE key.id = wanted;
        END IF;
        RETURN coalesce(answer, 'forgotten');
    END IF;
    PERFORM set_config('custody.sampled_kek_id', wanted, true);
    answer := CASE
        WHEN NOT EXISTS (SELECT 1 FROM auth.encryption_keks AS kek WHERE kek.kek_id = wanted)
            THEN 'unknown'
        WHEN EXISTS (SELECT 1 FROM auth.encryption_vaults AS vault
                     WHERE vault.kek_id = wanted AND vault.wrapped_mk IS NOT NULL) THEN 'in-use'
        WHEN EXISTS (SELECT 1 FROM auth.encryption_data_key_wraps AS wrap
                     WHERE wrap.kek_id = wanted) THEN 'data-keys'
        WHEN EXISTS (SELECT 1 FROM auth.custody_instances AS instance
                     WHERE instance.writes_kek_id = wanted
                         AND instance.heartbeat_at > now() - interval '1 minute') THEN 'written'
        WHEN EXISTS (SELECT 1 FROM auth.encryption_keks AS kek
                     WHERE kek.kek_id = wanted AND kek.state = 'retired' AND kek.seal IS NOT NULL)
            THEN 'retired'
    END;
    PERFORM set_config('custody.sampled_kek_id', '', true);
    IF answer IS NULL THEN
        PERFORM set_config('custody.forgets', wanted, true);
        DELETE FROM auth.encryption_keks AS kek WHERE kek.kek_id = wanted;
        PERFORM set_config('custody.forgets', '', true);
    END IF;
    RETURN coalesce(answer, 'forgotten');
END
$$;

-- ── who may do what ──────────────────────────────────────────────────────────────────────────────

REVOKE ALL ON FUNCTION auth.custody_add_data_key(TEXT, TEXT, TEXT, TEXT, TEXT, TEXT[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION auth.custody_put_data_key_wrap(TEXT, TEXT, TEXT, TEXT, TEXT)
    FROM PUBLIC, custody_app;
REVOKE ALL ON FUNCTION auth.custody_drop_data_key_wrap(TEXT, TEXT, TEXT) FROM PUBLIC, custody_app;
REVOKE ALL ON FUNCTION auth.custody_count_unsealed() FROM PUBLIC;
REVOKE ALL ON FUNCTION auth.custody_read_unsealed(TEXT, SMALLINT, TEXT, TEXT, INTEGER)
    FROM PUBLIC, custody_app;
REVOKE ALL ON FUNCTION auth.custody_seal_rows(
    TEXT[], BIGINT[], TEXT[], TEXT[], TEXT[], TEXT[], TEXT[], TIMESTAMPTZ) FROM PUBLIC, custody_app;
REVOKE ALL ON FUNCTION auth.custody_find_vaults(TEXT[]) FROM PUBLIC, custody_rewrap;
REVOKE ALL ON FUNCTION auth.custody_sample_rows(TEXT) FROM PUBLIC;
REVOKE ALL ON FUNCTION auth.custody_register_kek(TEXT, TEXT, TEXT, TEXT, TEXT, BOOLEAN) FROM PUBLIC;
REVOKE ALL ON FUNCTION auth.custody_doubt_kek(TEXT, TEXT) FROM PUBLIC;
REVOKE ALL ON FUNCTION auth.custody_forget_kek(TEXT) FROM PUBLIC, custody_app, custody_rewrap;

GRANT EXECUTE ON FUNCTION auth.custody_add_data_key(TEXT, TEXT, TEXT, TEXT, TEXT, TEXT[])
    TO custody_app, custody_rewrap;
GRANT EXECUTE ON FUNCTION auth.custody_put_data_key_wrap(TEXT, TEXT, TEXT, TEXT, TEXT) TO custody_rewrap;
GRANT EXECUTE ON FUNCTION auth.custody_drop_data_key_wrap(TEXT, TEXT, TEXT) TO custody_rewrap;
GRANT EXECUTE ON FUNCTION auth.custody_count_unsealed() TO custody_app, custody_rewrap;
GRANT EXECUTE ON FUNCTION auth.custody_read_unsealed(TEXT, SMALLINT, TEXT, TEXT, INTEGER)
    TO custody_rewrap;
GRANT EXECUTE ON FUNCTION auth.custody_seal_rows(
    TEXT[], BIGINT[], TEXT[], TEXT[], TEXT[], TEXT[], TEXT[], TIMESTAMPTZ) TO custody_rewrap;
GRANT EXECUTE ON FUNCTION auth.custody_find_vaults(TEXT[]) TO custody_app;
GRANT EXECUTE ON FUNCTION auth.custody_sample_rows(TEXT) TO custody_app, custody_rewrap;
GRANT EXECUTE ON FUNCTION auth.custody_register_kek(TEXT, TEXT, TEXT, TEXT, TEXT, BOOLEAN)
    TO custody_app, custody_rewrap;
GRANT EXECUTE ON FUNCTION auth.custody_doubt_kek(TEXT, TEXT) TO custody_app, custody_rewrap;
