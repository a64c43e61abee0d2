-- Re-wrap runs: many processes share one through these tables, and each row is done once. A run's
-- work is cut into claims, ranges of users in the order of the index; a claim that is no longer
-- looked after is taken over. Instances say what they can read, so that nothing is wrapped that one
-- of them could not unwrap.

CREATE TABLE IF NOT EXISTS auth.rewrap_runs (
    id             BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target         TEXT NOT NULL,
    everything     BOOLEAN NOT NULL,
    started_by     TEXT NOT NULL,
    sources        TEXT[] NOT NULL,
    state          TEXT NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'failed', 'stopped')),
    total          BIGINT NOT NULL,
    done           BIGINT NOT NULL DEFAULT 0,
    moved          BIGINT NOT NULL DEFAULT 0,
    failed         BIGINT NOT NULL DEFAULT 0,
    cursor_kek_id  TEXT NOT NULL DEFAULT '',
    cursor_format  SMALLINT NOT NULL DEFAULT 0,
    cursor_user_id TEXT NOT NULL DEFAULT '',
    started_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    heartbeat_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    ended_at       TIMESTAMPTZ,
    CHECK ((state = 'running') = (ended_at IS NULL))
);

COMMENT ON TABLE auth.rewrap_runs IS 'Re-wrap runs: from where to where, by whom, how far';
COMMENT ON COLUMN auth.rewrap_runs.target IS 'The kek_id that rows are brought to';
COMMENT ON COLUMN auth.rewrap_runs.everything IS 'Rows under the target too: for a KMS that keeps its kek_id when its key is rotated';
COMMENT ON COLUMN auth.rewrap_runs.done IS 'Rows that were re-wrapped';
COMMENT ON COLUMN auth.rewrap_runs.moved IS 'Rows that somebody else changed meanwhile: nothing was overwritten';
COMMENT ON COLUMN auth.rewrap_runs.failed IS 'Rows that were set aside: their wrap does not open';

-- One run at a time; whoever comes second helps.
DROP INDEX IF EXISTS auth.rewrap_runs_running;
CREATE UNIQUE INDEX rewrap_runs_running ON auth.rewrap_runs ((true)) WHERE state = 'running';

CREATE TABLE IF NOT EXISTS auth.rewrap_claims (
    id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id        BIGINT NOT NULL REFERENCES auth.rewrap_runs (id) ON DELETE CASCADE,
    owner         TEXT NOT NULL,
    kek_id        TEXT NOT NULL,
    format        SMALLINT NOT NULL,
    above         TEXT NOT NULL,
    up_to         TEXT NOT NULL,
    heartbeat_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);

COMMENT ON TABLE auth.rewrap_claims IS 'Ranges of users that a process re-wraps at this moment: above < user_id <= up_to';

CREATE TABLE IF NOT EXISTS auth.custody_instances (
    id            TEXT PRIMARY KEY,
    host          TEXT NOT NULL,
    process       INTEGER NOT NULL,
    writes_uri    TEXT NOT NULL,
    writes_kek_id TEXT,
    reads         TEXT[] NOT NULL,
    started_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    heartbeat_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);

COMMENT ON TABLE auth.custody_instances IS 'Daemons, and the KEKs that each can read and writes';
COMMENT ON COLUMN auth.custody_instances.reads IS 'URIs and kek_ids of all its KEKs';

REVOKE ALL ON auth.rewrap_runs, auth.rewrap_claims, auth.custody_instances
    FROM PUBLIC, custody_app, custody_rewrap;
GRANT SELECT ON auth.rewrap_runs, auth.custody_instances TO custody_app, custody_rewrap;
GRANT SELECT, DELETE ON auth.rewrap_claims TO custody_rewrap;
GRANT INSERT (target, everything, started_by, sources, total) ON auth.rewrap_runs TO custody_rewrap;
GRANT UPDATE (state, done, moved, failed, cursor_kek_id, cursor_format, cursor_user_id, heartbeat_at, ended_at)
    ON auth.rewrap_runs TO custody_rewrap;
GRANT INSERT (run_id, owner, kek_id, format, above, up_to) ON auth.rewrap_claims TO custody_rewrap;
GRANT UPDATE (owner, above, heartbeat_at) ON auth.rewrap_claims TO custody_rewrap;
GRANT INSERT (id, host, process, writes_uri, writes_kek_id, reads), DELETE,
      UPDATE (writes_uri, writes_kek_id, reads, heartbeat_at)
    ON auth.custody_instances TO custody_app;

-- Stale rows in the order of the work: by the KEK and format that they have, then by user. It serves
-- what the index of 0006 served.
CREATE INDEX IF NOT EXISTS encryption_vaults_rewrap_idx
    ON auth.encryption_vaults (kek_id, format_version, user_id) WHERE wrapped_mk IS NOT NULL;
DROP INDEX IF EXISTS auth.encryption_vaults_kek_id_idx;

ALTER TABLE auth.encryption_keks ADD COLUMN IF NOT EXISTS retirement JSONB;
COMMENT ON COLUMN auth.encryption_keks.retirement IS 'What was seen when it was retired: rows, instances, the last run';

-- As in 0006, and it is refused while a live instance writes under the KEK. What was seen is kept.
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

-- The worker brings rows to a KEK, so it must hold that KEK against the registry as the daemon does.
REVOKE ALL ON FUNCTION auth.custody_retire_kek(TEXT) FROM PUBLIC, custody_app;
GRANT EXECUTE ON FUNCTION auth.custody_retire_kek(TEXT) TO custody_rewrap;
GRANT EXECUTE ON FUNCTION auth.custody_sample_wraps(TEXT) TO custody_rewrap;
GRANT EXECUTE ON FUNCTION auth.custody_register_kek(TEXT, TEXT, TEXT, TEXT, BOOLEAN) TO custody_rewrap;
