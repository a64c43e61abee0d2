-- Data keys wrap, too: a row's kek_id may be the id of a data key. Its record stays while a row carries it,
-- and no row is written under one that is not on record.

ALTER TABLE auth.custody_instances ADD COLUMN IF NOT EXISTS active_kek_id TEXT;
ALTER TABLE auth.custody_instances ADD COLUMN IF NOT EXISTS seals_with TEXT;
COMMENT ON COLUMN auth.custody_instances.writes_kek_id IS 'What new wraps of users'' keys carry: a data key''s id in envelope mode';
COMMENT ON COLUMN auth.custody_instances.active_kek_id IS 'Of the active KEK: new wraps of data keys carry it';
COMMENT ON COLUMN auth.custody_instances.reads IS 'URIs and kek_ids of all its KEKs, and the ids of its data keys';
COMMENT ON COLUMN auth.custody_instances.seals_with IS 'The data key that it takes for the current one';
GRANT INSERT (active_kek_id, seals_with), UPDATE (active_kek_id, seals_with)
    ON auth.custody_instances TO custody_app;

-- As in 0006, which says why it is safe; and a data key must be on record. Whoever removes a record takes
-- the same lock alone.
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
    IF starts_with(NEW.kek_id, 'dk-')
       AND NOT EXISTS (SELECT 1 FROM auth.encryption_data_keys AS key
                       JOIN auth.encryption_data_key_wraps AS wrap ON wrap.data_key_id = key.id
                       WHERE key.id = NEW.kek_id AND key.lost_at IS NULL) THEN
        RAISE EXCEPTION 'no record of the data key % has a wrap: none may be written under it', NEW.kek_id
            USING ERRCODE = 'KEK02', HINT = 'Restore auth.encryption_data_keys from a backup.';
    END IF;
    RETURN NEW;
END
$$;

-- As in 0011, and which of them rows carry; the others only data keys are wrapped under. Under a name of
-- its own, since what a function returns can't change in place.
DROP FUNCTION IF EXISTS auth.custody_keks_in_use();
CREATE OR REPLACE FUNCTION auth.custody_find_keks_in_use() RETURNS TABLE (kek_id TEXT, in_rows BOOLEAN)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
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
        SELECT used.kek_id, bool_or(used.in_rows) FROM (
            SELECT found.kek_id, true AS in_rows FROM found WHERE found.kek_id IS NOT NULL
            UNION ALL
            SELECT wrap.kek_id, false FROM auth.encryption_data_key_wraps AS wrap
        ) AS used
        GROUP BY used.kek_id ORDER BY used.kek_id;
    PERFORM set_config('custody.scans_kek_ids', '', true);
END
$$;

-- As in 0011, and a daemon whose data keys are wrapped under it counts as one that writes. A data key is
-- never retired: its record goes when nothing carries it. Answers as in 0011, or data-key.
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

-- As in 0011, and a data key that wraps is in use. For the owner alone, and with its rights. Answers
-- forgotten (now), unknown (nothing done), or why it is refused: in-use (rows), data-keys (wrapped under it),
-- written (by a live daemon; a data key that is the only one may be what it seals with), retired (which is
-- for good).
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
        PERFORM set_config('custody.sampled_kek_id', wanted, true);
        answer := CASE
            WHEN EXISTS (SELECT 1 FROM auth.encryption_vaults AS vault
                         WHERE vault.kek_id = wanted AND vault.wrapped_mk IS NOT NULL)
                OR EXISTS (SELECT 1 FROM auth.encryption_vaults AS vault
                           WHERE vault.seal IS NOT NULL
                               AND starts_with(vault.seal, '1.' || wanted || '.')) THEN 'in-use'
            WHEN EXISTS (SELECT 1 FROM auth.custody_instances AS instance
                         WHERE instance.heartbeat_at > now() - interval '1 minute'
                             AND (wanted IN (instance.writes_kek_id, instance.seals_with)
                                  OR NOT EXISTS (SELECT 1 FROM auth.encryption_data_keys AS other
                                                 WHERE other.id <> wanted AND other.lost_at IS NULL)))
                THEN 'written'
        END;
        PERFORM set_config('custody.looks_for_seals', '', true);
        PERFORM set_config('custody.sampled_kek_id', '', true);
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
                     WHERE wanted IN (instance.writes_kek_id, instance.active_kek_id)
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

REVOKE ALL ON FUNCTION auth.custody_find_keks_in_use() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.custody_find_keks_in_use() TO custody_app, custody_rewrap;
