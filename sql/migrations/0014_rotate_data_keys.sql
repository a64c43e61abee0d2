-- Deep rotation: a new data key is announced under the seal of the current one, promoted once every daemon
-- has it open, and every row and record is sealed with it; then the one before is ended. Of what these
-- functions store nothing is believed that a data key does not vouch for: they keep honest writers apart.

ALTER TABLE auth.encryption_data_keys ADD COLUMN IF NOT EXISTS ended TEXT[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN auth.encryption_data_keys.ended IS 'Data keys before it that were ended: nothing is sealed with them again';
COMMENT ON COLUMN auth.encryption_data_keys.seal IS
    '1: the current one, made by itself. 2: vouched for by the current one; its own MAC, and that one''s';

ALTER TABLE auth.rewrap_runs ADD COLUMN IF NOT EXISTS data_key TEXT;
COMMENT ON COLUMN auth.rewrap_runs.data_key IS 'Of a deep run: the data key that rows are sealed with; NULL: a shallow run';
GRANT INSERT (data_key) ON auth.rewrap_runs TO custody_rewrap;

-- ── announced, promoted, ended ───────────────────────────────────────────────────────────────────

-- Adds a data key that the current one vouches for. Answers with the id of the one that is there then:
-- this one, or another that the current one vouches for. NULL: the current one is another by now.
-- bad: ids that the caller found to be no data keys of ours.
CREATE OR REPLACE FUNCTION auth.custody_announce_data_key(
        its_id TEXT, its_seal TEXT, its_kek_id TEXT, its_wrapped_key TEXT, its_wrap_iv TEXT,
        current_id TEXT, current_seal TEXT, bad TEXT[])
    RETURNS TEXT
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    there TEXT;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'a data key is announced in READ COMMITTED only'
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'An older snapshot could miss the one that is there.';
    END IF;
    LOCK TABLE auth.encryption_data_keys IN SHARE ROW EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT 1 FROM auth.encryption_data_keys AS key
                   WHERE key.id = current_id AND key.seal = current_seal AND key.lost_at IS NULL) THEN
        RETURN NULL;
    END IF;
    SELECT key.id INTO there FROM auth.encryption_data_keys AS key
        WHERE starts_with(key.seal, '2.' || current_id || '.') AND key.id <> ALL (bad)
            AND key.lost_at IS NULL
        ORDER BY key.id LIMIT 1;
    IF there IS NOT NULL THEN
        RETURN there;
    END IF;
    IF (SELECT count(*) FROM auth.encryption_data_keys) >= 16 THEN
        RAISE EXCEPTION 'there are 16 records of data keys'
            USING ERRCODE = 'restrict_violation',
                  HINT = 'Remove those that are not yours: custody kek forget ID';
    END IF;
    INSERT INTO auth.encryption_data_keys (id, seal) VALUES (its_id, its_seal);
    INSERT INTO auth.encryption_data_key_wraps (data_key_id, kek_id, wrapped_key, wrap_iv, format_version)
        VALUES (its_id, its_kek_id, its_wrapped_key, its_wrap_iv, 3);
    RETURN its_id;
END
$$;

-- Makes a successor the current one, and the current one its predecessor: both or none, and only if both
-- records are as they were read. Of the new seals only the MAC by which the new one vouches for the old
-- one is the caller's.
CREATE OR REPLACE FUNCTION auth.custody_promote_data_key(
        its_id TEXT, its_seal TEXT, before_id TEXT, before_seal TEXT, vouches TEXT)
    RETURNS BOOLEAN
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'a data key is promoted in READ COMMITTED only'
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'An older snapshot could miss that it was promoted.';
    END IF;
    LOCK TABLE auth.encryption_data_keys IN SHARE ROW EXCLUSIVE MODE;
    IF NOT starts_with(its_seal, '2.' || before_id || '.') OR NOT starts_with(before_seal, '1.')
       OR (SELECT count(*) FROM auth.encryption_data_keys AS key
           WHERE (key.id, key.seal) IN ((its_id, its_seal), (before_id, before_seal))
               AND key.lost_at IS NULL) <> 2 THEN
        RETURN false;
    END IF;
    UPDATE auth.encryption_data_keys AS key
        SET seal = CASE key.id WHEN its_id THEN '1.' || split_part(its_seal, '.', 3)
                   ELSE concat_ws('.', '2', its_id, split_part(before_seal, '.', 2), vouches) END
        WHERE key.id IN (its_id, before_id);
    RETURN true;
END
$$;

-- Removes the record of a predecessor, with its wraps, once nothing carries it. Answers ended (now),
-- unknown (there is none), changed (a record is not as it was read), or what still carries it: rows
-- (sealed with it), wraps (made with it), keks (their records are sealed with it).
CREATE OR REPLACE FUNCTION auth.custody_end_data_key(
        its_id TEXT, its_seal TEXT, current_id TEXT, current_seal TEXT)
    RETURNS TEXT
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    answer TEXT;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'a data key is ended in READ COMMITTED only'
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'An older snapshot could miss a row that carries it.';
    END IF;
    PERFORM set_config('custody.looks_for_seals', 'on', true);
    PERFORM set_config('custody.sampled_kek_id', its_id, true);
    -- The first look takes no lock, so that an attempt in vain holds up no writer. The second one comes
    -- after the writers: see custody_refuse_ended_data_key, and custody_refuse_retired_kek.
    FOR look IN 1..2 LOOP
        answer := CASE
            WHEN NOT EXISTS (SELECT 1 FROM auth.encryption_data_keys AS key WHERE key.id = its_id)
                THEN 'unknown'
            WHEN NOT starts_with(its_seal, '2.' || current_id || '.') OR NOT starts_with(current_seal, '1.')
                OR (SELECT count(*) FROM auth.encryption_data_keys AS key
                    WHERE (key.id, key.seal) IN ((its_id, its_seal), (current_id, current_seal))) <> 2
                THEN 'changed'
            WHEN EXISTS (SELECT 1 FROM auth.encryption_vaults AS vault
                         WHERE vault.seal IS NOT NULL
                             AND starts_with(vault.seal, '1.' || its_id || '.')) THEN 'rows'
            WHEN EXISTS (SELECT 1 FROM auth.encryption_vaults AS vault
                         WHERE vault.kek_id = its_id AND vault.wrapped_mk IS NOT NULL) THEN 'wraps'
            WHEN EXISTS (SELECT 1 FROM auth.encryption_keks AS kek
                         WHERE starts_with(kek.seal, '1.' || its_id || '.')) THEN 'keks'
        END;
        EXIT WHEN answer IS NOT NULL OR look = 2;
        PERFORM pg_advisory_xact_lock(hashtextextended('custody kek ' || its_id, 0));
        LOCK TABLE auth.encryption_keks, auth.encryption_data_keys IN SHARE ROW EXCLUSIVE MODE;
    END LOOP;
    PERFORM set_config('custody.looks_for_seals', '', true);
    PERFORM set_config('custody.sampled_kek_id', '', true);
    IF answer IS NULL THEN
        UPDATE auth.encryption_data_keys AS key
            SET ended = key.ended || before.ended || before.id
            FROM auth.encryption_data_keys AS before
            WHERE key.id = current_id AND before.id = its_id;
        DELETE FROM auth.encryption_data_keys AS key WHERE key.id = its_id;
        answer := 'ended';
    END IF;
    RETURN answer;
END
$$;

-- A daemon that stood still while a data key was ended would go on sealing with it for some seconds, and
-- nobody would believe those rows.
CREATE OR REPLACE FUNCTION auth.custody_refuse_ended_data_key() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
    its_key TEXT := substr(NEW.seal, 3, 35);
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.seal IS NOT DISTINCT FROM OLD.seal THEN
            RETURN NEW;
        END IF;
    END IF;
    -- custody_reseal_rows has looked once for all of its rows.
    IF its_key IS NULL OR current_setting('custody.reseals_rows', true) = 'on' THEN
        RETURN NEW;
    END IF;
    -- Whoever ends a data key takes the same lock alone.
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('custody kek ' || its_key, 0));
    IF EXISTS (SELECT 1 FROM auth.encryption_data_keys AS key WHERE its_key = ANY (key.ended)) THEN
        RAISE EXCEPTION 'the data key % was ended: no row may be sealed with it', its_key
            USING ERRCODE = 'KEK03', HINT = 'A daemon takes the current one within ten seconds.';
    END IF;
    RETURN NEW;
END
$$;

DROP TRIGGER IF EXISTS encryption_vaults_refuse_ended_data_key ON auth.encryption_vaults;
CREATE TRIGGER encryption_vaults_refuse_ended_data_key BEFORE INSERT OR UPDATE ON auth.encryption_vaults
    FOR EACH ROW EXECUTE FUNCTION auth.custody_refuse_ended_data_key();

-- ── rows and records that are sealed with a predecessor ──────────────────────────────────────────

-- A page of rows sealed with a predecessor of a data key, in the order of users, with all that a seal is
-- made of; as custody_read_unsealed. When there is no predecessor, it shows nothing. Rows that were set
-- aside before the run began are shown, too: they are judged once in each run.
CREATE OR REPLACE FUNCTION auth.custody_read_sealed_before(
        its_key TEXT, above TEXT, up_to TEXT, began TIMESTAMPTZ, most INTEGER)
    RETURNS TABLE (user_id TEXT, wrapped_mk TEXT, wrap_iv TEXT, format_version SMALLINT, kek_id TEXT,
                   generation BIGINT, zero_knowledge BOOLEAN, key_check TEXT, recovery_digest TEXT,
                   recovery_format_version SMALLINT, recovery_set_at TIMESTAMPTZ, seal TEXT,
                   seal_serial BIGINT, row_version BIGINT, is_set_aside BOOLEAN)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    befores TEXT[] := ARRAY(SELECT '1.' || key.id || '.' FROM auth.encryption_data_keys AS key
                            WHERE starts_with(key.seal, '2.' || its_key || '.') AND key.id < its_key);
BEGIN
    IF befores = '{}' THEN
        RETURN;
    END IF;
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
               vault.recovery_format_version, vault.recovery_set_at, vault.seal, vault.seal_serial,
               vault.row_version, vault.quarantined_at IS NOT NULL
        FROM auth.encryption_vaults AS vault
        WHERE left(vault.seal, 38) = ANY (befores)
            AND (vault.quarantined_at IS NULL OR vault.quarantined_at < began)
            AND vault.user_id > above AND (up_to IS NULL OR vault.user_id <= up_to)
        ORDER BY vault.user_id LIMIT most;
    PERFORM set_config('custody.brings_over', '', true);
END
$$;

-- Seals such rows anew, each only if it is as it was read; a row that its user is changing at this moment
-- is left out. Without a new wrap the one that is there stays; without a seal the seal stays. With a reason
-- the row is set aside. Returns how many were stored, and whose were set aside.
CREATE OR REPLACE FUNCTION auth.custody_reseal_rows(
        its_key TEXT, users TEXT[], versions BIGINT[], wraps TEXT[], nonces TEXT[], kek_ids TEXT[],
        seals TEXT[], reasons TEXT[], began TIMESTAMPTZ)
    RETURNS TABLE (stored BIGINT, set_aside TEXT[])
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    befores TEXT[] := ARRAY(SELECT '1.' || key.id || '.' FROM auth.encryption_data_keys AS key
                            WHERE starts_with(key.seal, '2.' || its_key || '.') AND key.id < its_key);
BEGIN
    -- As custody_refuse_ended_data_key does for each row.
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('custody kek ' || its_key, 0));
    IF befores = '{}' OR EXISTS (SELECT 1 FROM auth.encryption_data_keys AS key
                                 WHERE its_key = ANY (key.ended)) THEN
        RETURN QUERY SELECT 0::bigint, '{}'::text[];
        RETURN;
    END IF;
    PERFORM set_config('custody.brings_over', 'on', true);
    PERFORM set_config('custody.reseals_rows', 'on', true);
    RETURN QUERY
    WITH free AS MATERIALIZED (
        SELECT made.*
        FROM unnest(users, versions, wraps, nonces, kek_ids, seals, reasons)
                AS made (user_id, row_version, wrapped_mk, wrap_iv, kek_id, seal, reason)
            -- Each is looked up, as in custody_seal_rows.
            CROSS JOIN LATERAL (
                SELECT 1 FROM auth.encryption_vaults AS vault
                WHERE vault.user_id = made.user_id AND vault.row_version = made.row_version
                    AND left(vault.seal, 38) = ANY (befores)
                    AND (made.wrapped_mk IS NULL OR vault.wrapped_mk IS NOT NULL)
                FOR UPDATE SKIP LOCKED
            ) AS vault
    ),
    done AS (
        UPDATE auth.encryption_vaults AS vault
        SET wrapped_mk = CASE WHEN free.wrapped_mk IS NULL THEN vault.wrapped_mk ELSE free.wrapped_mk END,
            wrap_iv = CASE WHEN free.wrapped_mk IS NULL THEN vault.wrap_iv ELSE free.wrap_iv END,
            format_version = CASE WHEN free.wrapped_mk IS NULL THEN vault.format_version ELSE 3 END,
            kek_id = CASE WHEN free.wrapped_mk IS NULL THEN vault.kek_id ELSE free.kek_id END,
            rewrapped_at = CASE WHEN free.wrapped_mk IS NULL THEN vault.rewrapped_at
                           ELSE greatest(now(), began) END,
            seal = coalesce(free.seal, vault.seal),
            -- The trigger of 0012 says the same; where the owner is a superuser it does not count.
            seal_serial = vault.seal_serial + (free.seal IS NOT NULL)::integer,
            quarantined_at = CASE WHEN free.reason IS NOT NULL THEN greatest(now(), began)
                             WHEN vault.wrapped_mk IS NOT NULL THEN vault.quarantined_at END,
            quarantine_reason = CASE WHEN free.reason IS NOT NULL THEN free.reason
                                WHEN vault.wrapped_mk IS NOT NULL THEN vault.quarantine_reason END
        FROM free
        WHERE vault.user_id = free.user_id AND vault.row_version = free.row_version
        RETURNING vault.user_id, free.reason
    )
    SELECT count(*), coalesce(array_agg(done.user_id) FILTER (WHERE done.reason IS NOT NULL), '{}')
    FROM done;
    PERFORM set_config('custody.reseals_rows', '', true);
    PERFORM set_config('custody.brings_over', '', true);
END
$$;

-- As in 0011, but a retired record, too, takes another seal from custody_reseal_kek.
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
                AND current_setting('custody.reseals', true) IS DISTINCT FROM OLD.kek_id
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

-- Seals the record of a KEK anew, if its seal is still exactly the one that was judged.
CREATE OR REPLACE FUNCTION auth.custody_reseal_kek(wanted TEXT, its_seal TEXT, new_seal TEXT)
    RETURNS BOOLEAN
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    stored BOOLEAN;
BEGIN
    PERFORM set_config('custody.reseals', wanted, true);
    UPDATE auth.encryption_keks AS kek SET seal = new_seal
        WHERE kek.kek_id = wanted AND kek.seal = its_seal AND new_seal IS NOT NULL;
    stored := FOUND;
    PERFORM set_config('custody.reseals', '', true);
    RETURN stored;
END
$$;

-- As in 0013, and it keeps whether the last run was a deep one, and which one was.
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
            WHEN starts_with(wanted, 'dk-') THEN 'data-key'
            WHEN its_state = 'retired' THEN 'already-retired'
            WHEN its_state = 'active' THEN 'active'
            WHEN EXISTS (SELECT 1 FROM auth.encryption_vaults AS vault
                         WHERE vault.kek_id = wanted AND vault.wrapped_mk IS NOT NULL) THEN 'in-use'
            WHEN EXISTS (SELECT 1 FROM auth.encryption_data_key_wraps AS wrap
                         WHERE wrap.kek_id = wanted) THEN 'data-keys'
            WHEN EXISTS (SELECT 1 FROM auth.custody_instances AS instance
                         WHERE wanted IN (instance.writes_kek_id, instance.active_kek_id)
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
                    'moved', run.moved, 'failed', run.failed, 'ended_at', run.ended_at,
                    'data_key', run.data_key)
                FROM auth.rewrap_runs AS run ORDER BY run.id DESC LIMIT 1),
            'last_deep', (SELECT jsonb_build_object(
                    'id', run.id, 'data_key', run.data_key, 'ended_at', run.ended_at)
                FROM auth.rewrap_runs AS run
                WHERE run.data_key IS NOT NULL AND run.state = 'done' ORDER BY run.id DESC LIMIT 1));
        INSERT INTO auth.encryption_keks (kek_id, state, retired_at, retirement)
            VALUES (wanted, 'retired', now(), seen)
            ON CONFLICT (kek_id) DO UPDATE
                SET state = 'retired', retired_at = now(), retirement = seen;
        answer := 'retired';
    END IF;
    RETURN answer;
END
$$;

REVOKE ALL ON FUNCTION
        auth.custody_announce_data_key(TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT[]),
        auth.custody_promote_data_key(TEXT, TEXT, TEXT, TEXT, TEXT),
        auth.custody_end_data_key(TEXT, TEXT, TEXT, TEXT),
        auth.custody_read_sealed_before(TEXT, TEXT, TEXT, TIMESTAMPTZ, INTEGER),
        auth.custody_reseal_rows(TEXT, TEXT[], BIGINT[], TEXT[], TEXT[], TEXT[], TEXT[], TEXT[], TIMESTAMPTZ),
        auth.custody_reseal_kek(TEXT, TEXT, TEXT)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
        auth.custody_announce_data_key(TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT[]),
        auth.custody_promote_data_key(TEXT, TEXT, TEXT, TEXT, TEXT),
        auth.custody_end_data_key(TEXT, TEXT, TEXT, TEXT),
        auth.custody_read_sealed_before(TEXT, TEXT, TEXT, TIMESTAMPTZ, INTEGER),
        auth.custody_reseal_rows(TEXT, TEXT[], BIGINT[], TEXT[], TEXT[], TEXT[], TEXT[], TEXT[], TIMESTAMPTZ),
        auth.custody_reseal_kek(TEXT, TEXT, TEXT)
    TO custody_rewrap;
