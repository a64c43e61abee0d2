-- A deep rotation at the pace of a shallow re-wrap. It looks once for a batch at what two triggers look at for
-- each row: whether the KEKs of its wraps may be written under, and whether its data key was ended. And it
-- reads each page by the index.

-- As custody_refuse_retired_kek of 0013 does for each row, for all that a batch is wrapped under. The locks
-- come first, in one order: whoever retires a KEK or removes a data key takes the same one alone.
CREATE OR REPLACE FUNCTION auth.custody_refuse_retired_keks(its_keks TEXT[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
    its_kek TEXT;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'a wrap is written in READ COMMITTED only'
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'An older snapshot could miss that its KEK was retired.';
    END IF;
    FOR its_kek IN SELECT DISTINCT kek FROM unnest(its_keks) AS kek WHERE kek IS NOT NULL ORDER BY 1 LOOP
        PERFORM pg_advisory_xact_lock_shared(hashtextextended('custody kek ' || its_kek, 0));
        IF EXISTS (SELECT 1 FROM auth.encryption_keks AS kek
                   WHERE kek.kek_id = its_kek AND kek.state = 'retired') THEN
            RAISE EXCEPTION 'the KEK % is retired: no wrap may be written under it', its_kek
                USING ERRCODE = 'KEK01', HINT = 'Set CUSTODY_KEK to another KEK.';
        END IF;
        IF starts_with(its_kek, 'dk-')
           AND NOT EXISTS (SELECT 1 FROM auth.encryption_data_keys AS key
                           JOIN auth.encryption_data_key_wraps AS wrap ON wrap.data_key_id = key.id
                           WHERE key.id = its_kek AND key.lost_at IS NULL) THEN
            RAISE EXCEPTION 'no record of the data key % has a wrap: none may be written under it', its_kek
                USING ERRCODE = 'KEK02', HINT = 'Restore auth.encryption_data_keys from a backup.';
        END IF;
    END LOOP;
END
$$;

-- As in 0014, but always in the order of the index. The planner takes the rows for a few, and would rather
-- read all of the table and sort them, again and again while the run is young.
CREATE OR REPLACE FUNCTION auth.custody_read_sealed_before(
        its_key TEXT, above TEXT, up_to TEXT, began TIMESTAMPTZ, most INTEGER)
    RETURNS TABLE (user_id TEXT, wrapped_mk TEXT, wrap_iv TEXT, format_version SMALLINT, kek_id TEXT,
                   generation BIGINT, zero_knowledge BOOLEAN, key_check TEXT, recovery_digest TEXT,
                   recovery_format_version SMALLINT, recovery_set_at TIMESTAMPTZ, seal TEXT,
                   seal_serial BIGINT, row_version BIGINT, is_set_aside BOOLEAN)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET enable_sort = off AS $$
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

-- As in 0014, and it looks at the KEKs of the wraps, too.
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
    -- What the triggers that are left out below do for each row: the same locks, then the same looks.
    PERFORM auth.custody_refuse_retired_keks(kek_ids);
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

-- As in 0014, but its trigger says where it is left out.
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
    IF its_key IS NULL THEN
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

-- Left out in that function alone: a runtime role that says so itself is looked at all the same.
DROP TRIGGER IF EXISTS encryption_vaults_refuse_retired_kek ON auth.encryption_vaults;
CREATE TRIGGER encryption_vaults_refuse_retired_kek BEFORE INSERT OR UPDATE ON auth.encryption_vaults
    FOR EACH ROW
    WHEN (current_setting('custody.reseals_rows', true) IS DISTINCT FROM 'on'
          OR current_user IN ('custody_app', 'custody_rewrap'))
    EXECUTE FUNCTION auth.custody_refuse_retired_kek();

DROP TRIGGER IF EXISTS encryption_vaults_refuse_ended_data_key ON auth.encryption_vaults;
CREATE TRIGGER encryption_vaults_refuse_ended_data_key BEFORE INSERT OR UPDATE ON auth.encryption_vaults
    FOR EACH ROW
    WHEN (current_setting('custody.reseals_rows', true) IS DISTINCT FROM 'on'
          OR current_user IN ('custody_app', 'custody_rewrap'))
    EXECUTE FUNCTION auth.custody_refuse_ended_data_key();

REVOKE ALL ON FUNCTION auth.custody_refuse_retired_keks(TEXT[]) FROM PUBLIC, custody_app, custody_rewrap;
