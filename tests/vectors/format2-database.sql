--
-- PostgreSQL database dump
--

\restrict format2

-- Dumped from database version 18.6
-- Dumped by pg_dump version 18.6

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: auth; Type: SCHEMA; Schema: -; Owner: custody_owner
--

CREATE SCHEMA auth;


ALTER SCHEMA auth OWNER TO custody_owner;

--
-- Name: custody_add_user(text); Type: FUNCTION; Schema: auth; Owner: custody_owner
--

CREATE FUNCTION auth.custody_add_user(wanted text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF (SELECT ours FROM auth.custody_marks WHERE table_name = 'users') THEN
        INSERT INTO auth.users (id) VALUES (wanted) ON CONFLICT (id) DO NOTHING;
    END IF;
END
$$;


ALTER FUNCTION auth.custody_add_user(wanted text) OWNER TO custody_owner;

--
-- Name: custody_count_row_version(); Type: FUNCTION; Schema: auth; Owner: custody_owner
--

CREATE FUNCTION auth.custody_count_row_version() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    NEW.row_version := OLD.row_version + 1;
    RETURN NEW;
END
$$;


ALTER FUNCTION auth.custody_count_row_version() OWNER TO custody_owner;

--
-- Name: custody_hold_deadline(); Type: FUNCTION; Schema: auth; Owner: custody_owner
--

CREATE FUNCTION auth.custody_hold_deadline() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF extract(epoch FROM clock_timestamp())
       > nullif(current_setting('app.deadline', true), '')::numeric THEN
        RAISE EXCEPTION 'the deadline of this request has passed' USING ERRCODE = 'query_canceled';
    END IF;
    RETURN NULL;
END
$$;


ALTER FUNCTION auth.custody_hold_deadline() OWNER TO custody_owner;

--
-- Name: custody_keep_kek(); Type: FUNCTION; Schema: auth; Owner: custody_owner
--

CREATE FUNCTION auth.custody_keep_kek() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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


ALTER FUNCTION auth.custody_keep_kek() OWNER TO custody_owner;

--
-- Name: custody_keks_in_use(); Type: FUNCTION; Schema: auth; Owner: custody_owner
--

CREATE FUNCTION auth.custody_keks_in_use() RETURNS SETOF text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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


ALTER FUNCTION auth.custody_keks_in_use() OWNER TO custody_owner;

--
-- Name: custody_read_vaults(text[]); Type: FUNCTION; Schema: auth; Owner: custody_owner
--

CREATE FUNCTION auth.custody_read_vaults(wanted text[]) RETURNS TABLE(place integer, clock double precision, known boolean, user_id text, wrapped_mk text, wrap_iv text, format_version smallint, kek_id text, recovery_wrapped_mk text, recovery_iv text, recovery_format_version smallint, recovery_set_at timestamp with time zone, zero_knowledge boolean, generation bigint, key_check text, row_version bigint)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
               vault.row_version
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


ALTER FUNCTION auth.custody_read_vaults(wanted text[]) OWNER TO custody_owner;

--
-- Name: custody_record_events(double precision, json); Type: FUNCTION; Schema: auth; Owner: custody_owner
--

CREATE FUNCTION auth.custody_record_events(deadline double precision, events json) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    recorded BIGINT;
BEGIN
    PERFORM set_config('app.deadline', deadline::numeric::text, true),
            set_config('lock_timeout', '2000', true),
            -- A key may leave once its audit row is committed, so committed must mean on disk.
            set_config('synchronous_commit',
                       CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                            ELSE current_setting('synchronous_commit') END, true);
    -- The scope of each row's own user is opened when the row is taken, and row-level security
    -- checks the row before the next one is taken. Were it ever otherwise, the check would refuse.
    INSERT INTO auth.encryption_vault_audit
        (id, user_id, action, ip_address, user_agent, context, status)
    SELECT id, user_id, action, ip_address, user_agent, context, status
    FROM json_to_recordset(events)
        AS given (id TEXT, user_id TEXT, action TEXT, ip_address TEXT, user_agent TEXT,
                  context TEXT, status INTEGER)
    WHERE set_config('app.current_user_id', user_id, true) IS NOT NULL
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS recorded = ROW_COUNT;
    IF recorded <> json_array_length(events) THEN
        RAISE EXCEPTION 'of % audit rows % were recorded', json_array_length(events), recorded
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    PERFORM set_config('app.current_user_id', '', true);
END
$$;


ALTER FUNCTION auth.custody_record_events(deadline double precision, events json) OWNER TO custody_owner;

--
-- Name: custody_refuse_retired_kek(); Type: FUNCTION; Schema: auth; Owner: custody_owner
--

CREATE FUNCTION auth.custody_refuse_retired_kek() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET row_security TO 'off'
    AS $$
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


ALTER FUNCTION auth.custody_refuse_retired_kek() OWNER TO custody_owner;

--
-- Name: custody_register_kek(text, text, text, text, boolean); Type: FUNCTION; Schema: auth; Owner: custody_owner
--

CREATE FUNCTION auth.custody_register_kek(wanted text, its_backend text, its_locator text, its_fingerprint text, is_active boolean) RETURNS TABLE(fingerprint text, state text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '2s'
    AS $$
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


ALTER FUNCTION auth.custody_register_kek(wanted text, its_backend text, its_locator text, its_fingerprint text, is_active boolean) OWNER TO custody_owner;

--
-- Name: custody_retire_kek(text); Type: FUNCTION; Schema: auth; Owner: custody_owner
--

CREATE FUNCTION auth.custody_retire_kek(wanted text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
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


ALTER FUNCTION auth.custody_retire_kek(wanted text) OWNER TO custody_owner;

--
-- Name: custody_sample_wraps(text); Type: FUNCTION; Schema: auth; Owner: custody_owner
--

CREATE FUNCTION auth.custody_sample_wraps(wanted text) RETURNS TABLE(user_id text, wrapped_mk text, wrap_iv text, format_version smallint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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


ALTER FUNCTION auth.custody_sample_wraps(wanted text) OWNER TO custody_owner;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: custody_instances; Type: TABLE; Schema: auth; Owner: custody_owner
--

CREATE TABLE auth.custody_instances (
    id text NOT NULL,
    host text NOT NULL,
    process integer NOT NULL,
    writes_uri text NOT NULL,
    writes_kek_id text,
    reads text[] NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    heartbeat_at timestamp with time zone DEFAULT now() NOT NULL
);


ALTER TABLE auth.custody_instances OWNER TO custody_owner;

--
-- Name: custody_marks; Type: TABLE; Schema: auth; Owner: custody_owner
--

CREATE TABLE auth.custody_marks (
    table_name text NOT NULL,
    ours boolean NOT NULL
);


ALTER TABLE auth.custody_marks OWNER TO custody_owner;

--
-- Name: custody_migrations; Type: TABLE; Schema: auth; Owner: custody_owner
--

CREATE TABLE auth.custody_migrations (
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);


ALTER TABLE auth.custody_migrations OWNER TO custody_owner;

--
-- Name: encryption_keks; Type: TABLE; Schema: auth; Owner: custody_owner
--

CREATE TABLE auth.encryption_keks (
    kek_id text NOT NULL,
    fingerprint text,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    backend text,
    locator text,
    state text DEFAULT 'decrypt-only'::text NOT NULL,
    activated_at timestamp with time zone,
    retired_at timestamp with time zone,
    retirement jsonb,
    CONSTRAINT encryption_keks_retired_at CHECK (((state = 'retired'::text) = (retired_at IS NOT NULL))),
    CONSTRAINT encryption_keks_state CHECK ((state = ANY (ARRAY['active'::text, 'decrypt-only'::text, 'retired'::text])))
);


ALTER TABLE auth.encryption_keks OWNER TO custody_owner;

--
-- Name: encryption_vault_audit; Type: TABLE; Schema: auth; Owner: custody_owner
--

CREATE TABLE auth.encryption_vault_audit (
    id text DEFAULT (gen_random_uuid())::text NOT NULL,
    user_id text NOT NULL,
    action text NOT NULL,
    ip_address text,
    user_agent text,
    context text,
    status integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY auth.encryption_vault_audit FORCE ROW LEVEL SECURITY;


ALTER TABLE auth.encryption_vault_audit OWNER TO custody_owner;

--
-- Name: encryption_vaults; Type: TABLE; Schema: auth; Owner: custody_owner
--

CREATE TABLE auth.encryption_vaults (
    user_id text NOT NULL,
    wrapped_mk text,
    wrap_iv text,
    format_version smallint DEFAULT 1 NOT NULL,
    kek_id text DEFAULT 'env-v1'::text NOT NULL,
    recovery_wrapped_mk text,
    recovery_iv text,
    recovery_format_version smallint DEFAULT 1 NOT NULL,
    recovery_set_at timestamp with time zone,
    zero_knowledge boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    rotated_at timestamp with time zone,
    generation bigint DEFAULT 1 NOT NULL,
    key_check text,
    row_version bigint DEFAULT 1 NOT NULL,
    rewrapped_at timestamp with time zone,
    quarantined_at timestamp with time zone,
    quarantine_reason text,
    CONSTRAINT encryption_vaults_has_wrap CHECK (((wrapped_mk IS NOT NULL) OR (recovery_wrapped_mk IS NOT NULL))),
    CONSTRAINT encryption_vaults_wrap_iv_pair CHECK ((((wrapped_mk IS NULL) = (wrap_iv IS NULL)) AND ((recovery_wrapped_mk IS NULL) = (recovery_iv IS NULL)))),
    CONSTRAINT encryption_vaults_zk_consistency CHECK (((NOT zero_knowledge) OR ((wrapped_mk IS NULL) AND (recovery_wrapped_mk IS NOT NULL))))
);

ALTER TABLE ONLY auth.encryption_vaults FORCE ROW LEVEL SECURITY;


ALTER TABLE auth.encryption_vaults OWNER TO custody_owner;

--
-- Name: rewrap_claims; Type: TABLE; Schema: auth; Owner: custody_owner
--

CREATE TABLE auth.rewrap_claims (
    id bigint NOT NULL,
    run_id bigint NOT NULL,
    owner text NOT NULL,
    kek_id text NOT NULL,
    format smallint NOT NULL,
    above text NOT NULL,
    up_to text NOT NULL,
    heartbeat_at timestamp with time zone DEFAULT now() NOT NULL
);


ALTER TABLE auth.rewrap_claims OWNER TO custody_owner;

--
-- Name: rewrap_claims_id_seq; Type: SEQUENCE; Schema: auth; Owner: custody_owner
--

ALTER TABLE auth.rewrap_claims ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME auth.rewrap_claims_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: rewrap_runs; Type: TABLE; Schema: auth; Owner: custody_owner
--

CREATE TABLE auth.rewrap_runs (
    id bigint NOT NULL,
    target text NOT NULL,
    everything boolean NOT NULL,
    started_by text NOT NULL,
    sources text[] NOT NULL,
    state text DEFAULT 'running'::text NOT NULL,
    total bigint NOT NULL,
    done bigint DEFAULT 0 NOT NULL,
    moved bigint DEFAULT 0 NOT NULL,
    failed bigint DEFAULT 0 NOT NULL,
    cursor_kek_id text DEFAULT ''::text NOT NULL,
    cursor_format smallint DEFAULT 0 NOT NULL,
    cursor_user_id text DEFAULT ''::text NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    heartbeat_at timestamp with time zone DEFAULT now() NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT rewrap_runs_check CHECK (((state = 'running'::text) = (ended_at IS NULL))),
    CONSTRAINT rewrap_runs_state_check CHECK ((state = ANY (ARRAY['running'::text, 'done'::text, 'failed'::text, 'stopped'::text])))
);


ALTER TABLE auth.rewrap_runs OWNER TO custody_owner;

--
-- Name: rewrap_runs_id_seq; Type: SEQUENCE; Schema: auth; Owner: custody_owner
--

ALTER TABLE auth.rewrap_runs ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME auth.rewrap_runs_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: users; Type: TABLE; Schema: auth; Owner: custody_owner
--

CREATE TABLE auth.users (
    id text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY auth.users FORCE ROW LEVEL SECURITY;


ALTER TABLE auth.users OWNER TO custody_owner;

--
-- Data for Name: custody_instances; Type: TABLE DATA; Schema: auth; Owner: custody_owner
--



--
-- Data for Name: custody_marks; Type: TABLE DATA; Schema: auth; Owner: custody_owner
--

INSERT INTO auth.custody_marks VALUES ('users', true);


--
-- Data for Name: custody_migrations; Type: TABLE DATA; Schema: auth; Owner: custody_owner
--

INSERT INTO auth.custody_migrations VALUES ('0001_create_roles', '6f092a15d3d183a3ab5fb09294d6da1255656b09a5de160bd6c1b76f0d330299', '2026-11-28 00:09:13.993182+00');
INSERT INTO auth.custody_migrations VALUES ('0002_create_users', 'eef8004d5bb83595ad73befb1a37f2d9cac7a639ce52b0f32229ae6c7e91637b', '2026-11-28 00:09:13.996711+00');
INSERT INTO auth.custody_migrations VALUES ('0003_create_vaults', 'dfd5f89a39085e0a851d749d4b7b79f24e85f751266d34bffd7a9cc8c89b6254', '2026-11-28 00:09:14.001455+00');
INSERT INTO auth.custody_migrations VALUES ('0004_create_audit', '212f7a317031c9531b06c5babf98e85cc44cc33378bb15a9304cf21447bccff6', '2026-11-28 00:09:14.008259+00');
INSERT INTO auth.custody_migrations VALUES ('0005_create_keks', '94c7988eb0457b3882eee8685ca6d6832ded6ec7c385b1699fdbe341fc65adb3', '2026-11-28 00:09:14.013481+00');
INSERT INTO auth.custody_migrations VALUES ('0006_extend_keks', 'bd3575fe8a1595576fa89b5b6de1a3c8cc6ec1df9cf78ee085a39c8e3a98a46b', '2026-11-28 00:09:14.018271+00');
INSERT INTO auth.custody_migrations VALUES ('0007_create_rewrap_runs', '7c1a48f415566ca83e7348726e3b82dfb86cde2357d31e5148f9c9b587f29dab', '2026-11-28 00:09:14.025721+00');
INSERT INTO auth.custody_migrations VALUES ('0008_gather_requests', '6d8fe4a4f25ff65b3f1551647ae8b29025e125904cfe1f5ba3ba7142185452b7', '2026-11-28 00:09:14.03474+00');
INSERT INTO auth.custody_migrations VALUES ('0009_gather_at_once', 'c8603899450243d5428190413cd1c8d542bbb3b5afa3af7771ef694d583af11d', '2026-11-28 00:09:14.038242+00');
INSERT INTO auth.custody_migrations VALUES ('0010_mark_users', '9a9324126c8300c9cf2ff57056c92ffa249066b767e3792bad37040bfd5cd479', '2026-11-28 00:09:14.04148+00');


--
-- Data for Name: encryption_keks; Type: TABLE DATA; Schema: auth; Owner: custody_owner
--

INSERT INTO auth.encryption_keks VALUES ('env-v1', 'ce918c1a7689254b69a54c285e034c14ea0d9791ac447dcf1ea8569a692fd049', '2026-11-28 00:09:14.266959+00', 'env', 'env:MANA_AUTH_KEK', 'active', '2026-11-28 00:09:14.266959+00', NULL, NULL);


--
-- Data for Name: encryption_vault_audit; Type: TABLE DATA; Schema: auth; Owner: custody_owner
--

INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-1126-79fe-aa4b-6df94634d64c', 'f2-00', 'init', '192.0.2.1', 'Firefox', 'created', 200, '2026-11-28 00:09:14.288115+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-1137-7353-a9d4-c917a06bde22', 'f2-00', 'rotate', '192.0.2.1', 'Firefox', NULL, 200, '2026-11-28 00:09:14.297382+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-113d-7b95-98b5-cf96328217f2', 'f2-01-ä-🔑', 'init', '192.0.2.1', 'Firefox', 'created', 200, '2026-11-28 00:09:14.302668+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-1141-7df5-8eb6-16d57e814a04', 'f2-02', 'init', '192.0.2.1', 'Firefox', 'created', 200, '2026-11-28 00:09:14.306646+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-1145-75ab-8ad5-3552b03b013b', 'f2-03', 'init', '192.0.2.1', 'Firefox', 'created', 200, '2026-11-28 00:09:14.310262+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-1149-7048-a01c-adc6321ac0c1', 'f2-04', 'init', '192.0.2.1', 'Firefox', 'created', 200, '2026-11-28 00:09:14.314208+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-114c-7b5b-83a1-29c221306cd0', 'f2-04', 'recovery_set', '192.0.2.1', 'Firefox', NULL, 200, '2026-11-28 00:09:14.318297+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-1151-7ede-9a0f-e5e4c590d990', 'f2-05', 'init', '192.0.2.1', 'Firefox', 'created', 200, '2026-11-28 00:09:14.322174+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-1154-7ad8-8b73-51926efecd36', 'f2-05', 'recovery_set', '192.0.2.1', 'Firefox', NULL, 200, '2026-11-28 00:09:14.325899+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-1157-7d72-86a1-f60ffe6fb29d', 'f2-06-ä-🔑', 'init', '192.0.2.1', 'Firefox', 'created', 200, '2026-11-28 00:09:14.328657+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-115a-749f-a762-9701bad25f1e', 'f2-06-ä-🔑', 'recovery_set', '192.0.2.1', 'Firefox', NULL, 200, '2026-11-28 00:09:14.331172+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-115d-7a8a-b039-0b20153a9f24', 'f2-07', 'init', '192.0.2.1', 'Firefox', 'created', 200, '2026-11-28 00:09:14.333758+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-115f-76a4-866d-608ccba7468e', 'f2-07', 'recovery_set', '192.0.2.1', 'Firefox', NULL, 200, '2026-11-28 00:09:14.336264+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-1162-7d4b-8a2f-e89f12221493', 'f2-08', 'init', '192.0.2.1', 'Firefox', 'created', 200, '2026-11-28 00:09:14.339001+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-1164-7cc0-bc9a-3255d40e418d', 'f2-08', 'recovery_set', '192.0.2.1', 'Firefox', NULL, 200, '2026-11-28 00:09:14.34161+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-1167-7c54-9f42-002f941f9e37', 'f2-08', 'zk_enable', '192.0.2.1', 'Firefox', NULL, 200, '2026-11-28 00:09:14.344022+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-116a-7781-895e-f32c71e4c1d8', 'f2-09', 'init', '192.0.2.1', 'Firefox', 'created', 200, '2026-11-28 00:09:14.346907+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-116c-780f-b76a-bab589877fa3', 'f2-09', 'recovery_set', '192.0.2.1', 'Firefox', NULL, 200, '2026-11-28 00:09:14.349223+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-116e-7393-bb7a-6c7651f1e5c4', 'f2-09', 'zk_enable', '192.0.2.1', 'Firefox', NULL, 200, '2026-11-28 00:09:14.351226+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-1171-7651-b23a-8cb39adb9b2e', 'f2-10', 'init', '192.0.2.1', 'Firefox', 'created', 200, '2026-11-28 00:09:14.353783+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-1173-7e10-b1aa-b9c2ba0be068', 'f2-10', 'recovery_set', '192.0.2.1', 'Firefox', NULL, 200, '2026-11-28 00:09:14.356129+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-1175-728d-9bb3-5f707b10a4ea', 'f2-10', 'zk_enable', '192.0.2.1', 'Firefox', NULL, 200, '2026-11-28 00:09:14.359619+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-1179-7c9d-b7c6-e88310df50dd', 'f2-11-ä-🔑', 'init', '192.0.2.1', 'Firefox', 'created', 200, '2026-11-28 00:09:14.362276+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-117c-7c69-aa92-436915b3b240', 'f2-11-ä-🔑', 'recovery_set', '192.0.2.1', 'Firefox', NULL, 200, '2026-11-28 00:09:14.364608+00');
INSERT INTO auth.encryption_vault_audit VALUES ('01a21f7c-117d-7686-a28b-76b13da74cae', 'f2-11-ä-🔑', 'zk_enable', '192.0.2.1', 'Firefox', NULL, 200, '2026-11-28 00:09:14.366481+00');


--
-- Data for Name: encryption_vaults; Type: TABLE DATA; Schema: auth; Owner: custody_owner
--

INSERT INTO auth.encryption_vaults VALUES ('f2-00', 'igp1X1X7las5WMl2lBU5pw1uL0ZIoriiqi3tsT+mIjGzdAqkVTRWBPT/i14WQVNT', 'O50sk4BFO8tTJDI6OoejeI8TsRAP8oEI', 2, 'env-v1', NULL, NULL, 1, NULL, false, '2026-11-28 00:09:14.288115+00', '2026-11-28 00:09:14.297382+00', 1795824554289, '51d7b9a6f8027b26e14529919bc9caf41367596cdb4304fc07463e7578af0c5d', 2, NULL, NULL, NULL);
INSERT INTO auth.encryption_vaults VALUES ('f2-01-ä-🔑', 'PRZD5LDmLvzQDoFUAjzloWZ5MUvYrhrR+B6Cr8ukpbHBR2Vy9pHbtFBGHzABow8U', 'xzxp4oDqf/MOkR1eA72OO9V44QScc9z5', 2, 'env-v1', NULL, NULL, 1, NULL, false, '2026-11-28 00:09:14.302668+00', NULL, 1795824554303, '2c994e616d8b9d72adfbdab7a5daf5b749d89e50aa9c62860707b76c55f8d17f', 1, NULL, NULL, NULL);
INSERT INTO auth.encryption_vaults VALUES ('f2-04', 'qxXfe1ppXRjdYNGbovlLV4J1F79Vg2Ia1a6ML7Lx61HMgeBO+bMsfG4Bu4O3zYBn', 'BdwFHC3/PHnzItrWJBkKHR94oQfh4Xpg', 2, 'env-v1', 'XUUxH2eXf6VN1UppS4Z6tuys77/BEBkeIAObK5RUFAjXtZF1xEG07ntFPuhcjlyo', '4x4deI32+qVnQ1ms', 1, '2026-11-28 00:09:14.318297+00', false, '2026-11-28 00:09:14.314208+00', NULL, 1795824554314, 'de75e839aa21476f5a0f19afbfb268f2e232afacf97b432721d21f3e7a89785b', 2, NULL, NULL, NULL);
INSERT INTO auth.encryption_vaults VALUES ('f2-05', 'M0BXMYGBG9wby6qKe4StCBcEd7Oa+UDBTyq4zj1hkMyUYv6yRU0YtXgf1Ht2QPCI', 'KSfXRkyiUlmSE6vJ+L2AplC/hp90uR4V', 2, 'env-v1', 'Ji7ku3p2ShzaT0HJSekN+0sdJUGOxyfpUumoN/Y8O5BJI5Moht8I3ZVCnnTNyLSQ', 'zIjrF92heP5wzdy/', 1, '2026-11-28 00:09:14.325899+00', false, '2026-11-28 00:09:14.322174+00', NULL, 1795824554322, '196cac2936ad734412e18a869caf5e9d26b7a2e5730ff4e43063f0be5574dd01', 2, NULL, NULL, NULL);
INSERT INTO auth.encryption_vaults VALUES ('f2-08', NULL, NULL, 2, 'env-v1', 'QeyClRj55BakUeC56snPEA2t7XT3VAFWP2YubQAslSgk9yUaeJZiOZnP/TriYj2v', 'dvU1LyjoX0XxfdGz', 1, '2026-11-28 00:09:14.34161+00', true, '2026-11-28 00:09:14.339001+00', NULL, 1795824554339, 'b260249f1b4a87d2ddd52b8290d5376e80433d66b37b4cf1bc1e4bc451bcf3d1', 3, NULL, NULL, NULL);
INSERT INTO auth.encryption_vaults VALUES ('f2-09', NULL, NULL, 2, 'env-v1', 'Tp0AdrDhAhCB0KgBKIpBe4n97TCIzSpuiMGSVQruna+FPWGLgAbzuGHb5OTfS9JY', 'jbhgLmjPliBG+EEa', 1, '2026-11-28 00:09:14.349223+00', true, '2026-11-28 00:09:14.346907+00', NULL, 1795824554347, 'b57654152c34e9bc84676710c3df7de2c6602e8c72cfd001b56ba19b1b47451b', 3, NULL, NULL, NULL);
INSERT INTO auth.encryption_vaults VALUES ('f2-02', 'yGULFPHOzWwQJQXReUCWDGjQyADLnrtFsnK9zwqqjN4ymQoyJiA99iRPaEJKOdJ9', '51eusKmBTmL5itAaiwutdAjG+qY1Ncdz', 2, 'env-v1', NULL, NULL, 1, NULL, false, '2026-11-28 00:09:14.306646+00', NULL, 1795824554307, NULL, 2, NULL, NULL, NULL);
INSERT INTO auth.encryption_vaults VALUES ('f2-03', '2WmS7d/cVs90xZqv6F6dBqifbwIvTk9I8xd2panjug+gc97WBOf7kKfEYPFn/z65', 'reC8v4jyLlLi06ROejQyKcYeW8GZBHkO', 2, 'env-v1', NULL, NULL, 1, NULL, false, '2026-11-28 00:09:14.310262+00', NULL, 1795824554310, NULL, 2, NULL, NULL, NULL);
INSERT INTO auth.encryption_vaults VALUES ('f2-06-ä-🔑', '4RsPjlLfS9N7ppeSMSX4eV0UdDgdm2Z4HGKabfG5OTpr6pTMzgGIxoL7n/pWTFQd', 'G3z3zC69b86cIOBFa8cEGEi99T23Yzy4', 2, 'env-v1', 'R1Bv4vreKJqkpV3KO7ie4ref7X7dHzC0wHGrVNo/iC3HcwR204QLmT7s4P+7zcmE', '1STS6fg2QAHk3oVq', 1, '2026-11-28 00:09:14.331172+00', false, '2026-11-28 00:09:14.328657+00', NULL, 1795824554329, NULL, 3, NULL, NULL, NULL);
INSERT INTO auth.encryption_vaults VALUES ('f2-07', 'v4nWyv1YCBjy7EyihjHlwMObpxVCDe+o5R4zSCJf+d5+ZJg6jcyIai6FwXIEqtvU', 'MYY5Dsp3NYiqlTyWwHMYJfu+sfuuHcA/', 2, 'env-v1', '3Kw+sEp+D+jXIy/7YT8YeyiZg9GEA3O24k22QNvwInE2m5OMrxigf9IlFIqDdky1', 'XKkbI6nW7szDH5Rh', 1, '2026-11-28 00:09:14.336264+00', false, '2026-11-28 00:09:14.333758+00', NULL, 1795824554334, NULL, 3, NULL, NULL, NULL);
INSERT INTO auth.encryption_vaults VALUES ('f2-10', NULL, NULL, 2, 'env-v1', 'IWsuT7DzkjD8MdgisLzP61wlgDX44qFyuYOnyB+lSliTFyTY7IF2+VYutk85MAMU', '4IIZolUuuBu3CnzI', 1, '2026-11-28 00:09:14.356129+00', true, '2026-11-28 00:09:14.353783+00', NULL, 1795824554354, NULL, 4, NULL, NULL, NULL);
INSERT INTO auth.encryption_vaults VALUES ('f2-11-ä-🔑', NULL, NULL, 2, 'env-v1', 'Y6+wc54hKsOt9fSHVSRXlRRJDmXvmfgr71ifDID3Haof1JaXByGyZ3R6bG+O6K/g', 'KQ0LjG/vs1hSla2H', 1, '2026-11-28 00:09:14.364608+00', true, '2026-11-28 00:09:14.362276+00', NULL, 1795824554362, NULL, 4, NULL, NULL, NULL);


--
-- Data for Name: rewrap_claims; Type: TABLE DATA; Schema: auth; Owner: custody_owner
--



--
-- Data for Name: rewrap_runs; Type: TABLE DATA; Schema: auth; Owner: custody_owner
--



--
-- Data for Name: users; Type: TABLE DATA; Schema: auth; Owner: custody_owner
--

INSERT INTO auth.users VALUES ('f2-00', '2026-11-28 00:09:14.288115+00');
INSERT INTO auth.users VALUES ('f2-01-ä-🔑', '2026-11-28 00:09:14.302668+00');
INSERT INTO auth.users VALUES ('f2-02', '2026-11-28 00:09:14.306646+00');
INSERT INTO auth.users VALUES ('f2-03', '2026-11-28 00:09:14.310262+00');
INSERT INTO auth.users VALUES ('f2-04', '2026-11-28 00:09:14.314208+00');
INSERT INTO auth.users VALUES ('f2-05', '2026-11-28 00:09:14.322174+00');
INSERT INTO auth.users VALUES ('f2-06-ä-🔑', '2026-11-28 00:09:14.328657+00');
INSERT INTO auth.users VALUES ('f2-07', '2026-11-28 00:09:14.333758+00');
INSERT INTO auth.users VALUES ('f2-08', '2026-11-28 00:09:14.339001+00');
INSERT INTO auth.users VALUES ('f2-09', '2026-11-28 00:09:14.346907+00');
INSERT INTO auth.users VALUES ('f2-10', '2026-11-28 00:09:14.353783+00');
INSERT INTO auth.users VALUES ('f2-11-ä-🔑', '2026-11-28 00:09:14.362276+00');


--
-- Name: rewrap_claims_id_seq; Type: SEQUENCE SET; Schema: auth; Owner: custody_owner
--

SELECT pg_catalog.setval('auth.rewrap_claims_id_seq', 1, false);


--
-- Name: rewrap_runs_id_seq; Type: SEQUENCE SET; Schema: auth; Owner: custody_owner
--

SELECT pg_catalog.setval('auth.rewrap_runs_id_seq', 1, false);


--
-- Name: custody_instances custody_instances_pkey; Type: CONSTRAINT; Schema: auth; Owner: custody_owner
--

ALTER TABLE ONLY auth.custody_instances
    ADD CONSTRAINT custody_instances_pkey PRIMARY KEY (id);


--
-- Name: custody_marks custody_marks_pkey; Type: CONSTRAINT; Schema: auth; Owner: custody_owner
--

ALTER TABLE ONLY auth.custody_marks
    ADD CONSTRAINT custody_marks_pkey PRIMARY KEY (table_name);


--
-- Name: custody_migrations custody_migrations_pkey; Type: CONSTRAINT; Schema: auth; Owner: custody_owner
--

ALTER TABLE ONLY auth.custody_migrations
    ADD CONSTRAINT custody_migrations_pkey PRIMARY KEY (name);


--
-- Name: encryption_keks encryption_keks_pkey; Type: CONSTRAINT; Schema: auth; Owner: custody_owner
--

ALTER TABLE ONLY auth.encryption_keks
    ADD CONSTRAINT encryption_keks_pkey PRIMARY KEY (kek_id);


--
-- Name: encryption_vault_audit encryption_vault_audit_pkey; Type: CONSTRAINT; Schema: auth; Owner: custody_owner
--

ALTER TABLE ONLY auth.encryption_vault_audit
    ADD CONSTRAINT encryption_vault_audit_pkey PRIMARY KEY (id);


--
-- Name: encryption_vaults encryption_vaults_pkey; Type: CONSTRAINT; Schema: auth; Owner: custody_owner
--

ALTER TABLE ONLY auth.encryption_vaults
    ADD CONSTRAINT encryption_vaults_pkey PRIMARY KEY (user_id);


--
-- Name: rewrap_claims rewrap_claims_pkey; Type: CONSTRAINT; Schema: auth; Owner: custody_owner
--

ALTER TABLE ONLY auth.rewrap_claims
    ADD CONSTRAINT rewrap_claims_pkey PRIMARY KEY (id);


--
-- Name: rewrap_runs rewrap_runs_pkey; Type: CONSTRAINT; Schema: auth; Owner: custody_owner
--

ALTER TABLE ONLY auth.rewrap_runs
    ADD CONSTRAINT rewrap_runs_pkey PRIMARY KEY (id);


--
-- Name: users users_pkey; Type: CONSTRAINT; Schema: auth; Owner: custody_owner
--

ALTER TABLE ONLY auth.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);


--
-- Name: encryption_vault_audit_created_brin; Type: INDEX; Schema: auth; Owner: custody_owner
--

CREATE INDEX encryption_vault_audit_created_brin ON auth.encryption_vault_audit USING brin (created_at);


--
-- Name: encryption_vault_audit_user_created_idx; Type: INDEX; Schema: auth; Owner: custody_owner
--

CREATE INDEX encryption_vault_audit_user_created_idx ON auth.encryption_vault_audit USING btree (user_id, created_at);


--
-- Name: encryption_vaults_rewrap_idx; Type: INDEX; Schema: auth; Owner: custody_owner
--

CREATE INDEX encryption_vaults_rewrap_idx ON auth.encryption_vaults USING btree (kek_id, format_version, user_id) WHERE (wrapped_mk IS NOT NULL);


--
-- Name: rewrap_runs_running; Type: INDEX; Schema: auth; Owner: custody_owner
--

CREATE UNIQUE INDEX rewrap_runs_running ON auth.rewrap_runs USING btree ((true)) WHERE (state = 'running'::text);


--
-- Name: encryption_keks encryption_keks_keep; Type: TRIGGER; Schema: auth; Owner: custody_owner
--

CREATE TRIGGER encryption_keks_keep BEFORE INSERT OR DELETE OR UPDATE ON auth.encryption_keks FOR EACH ROW EXECUTE FUNCTION auth.custody_keep_kek();


--
-- Name: encryption_keks encryption_keks_keep_all; Type: TRIGGER; Schema: auth; Owner: custody_owner
--

CREATE TRIGGER encryption_keks_keep_all BEFORE TRUNCATE ON auth.encryption_keks FOR EACH STATEMENT EXECUTE FUNCTION auth.custody_keep_kek();


--
-- Name: encryption_vault_audit encryption_vault_audit_deadline; Type: TRIGGER; Schema: auth; Owner: custody_owner
--

CREATE CONSTRAINT TRIGGER encryption_vault_audit_deadline AFTER INSERT ON auth.encryption_vault_audit DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION auth.custody_hold_deadline();


--
-- Name: encryption_vaults encryption_vaults_refuse_retired_kek; Type: TRIGGER; Schema: auth; Owner: custody_owner
--

CREATE TRIGGER encryption_vaults_refuse_retired_kek BEFORE INSERT OR UPDATE ON auth.encryption_vaults FOR EACH ROW EXECUTE FUNCTION auth.custody_refuse_retired_kek();


--
-- Name: encryption_vaults encryption_vaults_row_version; Type: TRIGGER; Schema: auth; Owner: custody_owner
--

CREATE TRIGGER encryption_vaults_row_version BEFORE UPDATE ON auth.encryption_vaults FOR EACH ROW EXECUTE FUNCTION auth.custody_count_row_version();


--
-- Name: encryption_vaults encryption_vaults_user_id_fkey; Type: FK CONSTRAINT; Schema: auth; Owner: custody_owner
--

ALTER TABLE ONLY auth.encryption_vaults
    ADD CONSTRAINT encryption_vaults_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;


--
-- Name: rewrap_claims rewrap_claims_run_id_fkey; Type: FK CONSTRAINT; Schema: auth; Owner: custody_owner
--

ALTER TABLE ONLY auth.rewrap_claims
    ADD CONSTRAINT rewrap_claims_run_id_fkey FOREIGN KEY (run_id) REFERENCES auth.rewrap_runs(id) ON DELETE CASCADE;


--
-- Name: encryption_vault_audit; Type: ROW SECURITY; Schema: auth; Owner: custody_owner
--

ALTER TABLE auth.encryption_vault_audit ENABLE ROW LEVEL SECURITY;

--
-- Name: encryption_vault_audit encryption_vault_audit_own_row; Type: POLICY; Schema: auth; Owner: custody_owner
--

CREATE POLICY encryption_vault_audit_own_row ON auth.encryption_vault_audit TO custody_owner, custody_app USING ((user_id = NULLIF(current_setting('app.current_user_id'::text, true), ''::text))) WITH CHECK ((user_id = NULLIF(current_setting('app.current_user_id'::text, true), ''::text)));


--
-- Name: encryption_vault_audit encryption_vault_audit_rewrap; Type: POLICY; Schema: auth; Owner: custody_owner
--

CREATE POLICY encryption_vault_audit_rewrap ON auth.encryption_vault_audit FOR INSERT TO custody_rewrap WITH CHECK ((action = ANY (ARRAY['rewrap_run'::text, 'rewrap_failed'::text])));


--
-- Name: encryption_vaults; Type: ROW SECURITY; Schema: auth; Owner: custody_owner
--

ALTER TABLE auth.encryption_vaults ENABLE ROW LEVEL SECURITY;

--
-- Name: encryption_vaults encryption_vaults_kek_sample; Type: POLICY; Schema: auth; Owner: custody_owner
--

CREATE POLICY encryption_vaults_kek_sample ON auth.encryption_vaults FOR SELECT TO custody_owner USING (((kek_id = NULLIF(current_setting('custody.sampled_kek_id'::text, true), ''::text)) OR (current_setting('custody.scans_kek_ids'::text, true) = 'on'::text)));


--
-- Name: encryption_vaults encryption_vaults_own_row; Type: POLICY; Schema: auth; Owner: custody_owner
--

CREATE POLICY encryption_vaults_own_row ON auth.encryption_vaults USING ((user_id = NULLIF(current_setting('app.current_user_id'::text, true), ''::text))) WITH CHECK ((user_id = NULLIF(current_setting('app.current_user_id'::text, true), ''::text)));


--
-- Name: encryption_vaults encryption_vaults_rewrap_read; Type: POLICY; Schema: auth; Owner: custody_owner
--

CREATE POLICY encryption_vaults_rewrap_read ON auth.encryption_vaults FOR SELECT TO custody_rewrap USING (true);


--
-- Name: encryption_vaults encryption_vaults_rewrap_write; Type: POLICY; Schema: auth; Owner: custody_owner
--

CREATE POLICY encryption_vaults_rewrap_write ON auth.encryption_vaults FOR UPDATE TO custody_rewrap USING ((wrapped_mk IS NOT NULL)) WITH CHECK ((wrapped_mk IS NOT NULL));


--
-- Name: users; Type: ROW SECURITY; Schema: auth; Owner: custody_owner
--

ALTER TABLE auth.users ENABLE ROW LEVEL SECURITY;

--
-- Name: users users_own_row; Type: POLICY; Schema: auth; Owner: custody_owner
--

CREATE POLICY users_own_row ON auth.users USING ((id = NULLIF(current_setting('app.current_user_id'::text, true), ''::text))) WITH CHECK ((id = NULLIF(current_setting('app.current_user_id'::text, true), ''::text)));


--
-- Name: SCHEMA auth; Type: ACL; Schema: -; Owner: custody_owner
--

GRANT USAGE ON SCHEMA auth TO custody_app;
GRANT USAGE ON SCHEMA auth TO custody_rewrap;


--
-- Name: FUNCTION custody_add_user(wanted text); Type: ACL; Schema: auth; Owner: custody_owner
--

REVOKE ALL ON FUNCTION auth.custody_add_user(wanted text) FROM PUBLIC;
GRANT ALL ON FUNCTION auth.custody_add_user(wanted text) TO custody_app;


--
-- Name: FUNCTION custody_keks_in_use(); Type: ACL; Schema: auth; Owner: custody_owner
--

REVOKE ALL ON FUNCTION auth.custody_keks_in_use() FROM PUBLIC;
GRANT ALL ON FUNCTION auth.custody_keks_in_use() TO custody_app;
GRANT ALL ON FUNCTION auth.custody_keks_in_use() TO custody_rewrap;


--
-- Name: FUNCTION custody_read_vaults(wanted text[]); Type: ACL; Schema: auth; Owner: custody_owner
--

REVOKE ALL ON FUNCTION auth.custody_read_vaults(wanted text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION auth.custody_read_vaults(wanted text[]) TO custody_app;


--
-- Name: FUNCTION custody_record_events(deadline double precision, events json); Type: ACL; Schema: auth; Owner: custody_owner
--

REVOKE ALL ON FUNCTION auth.custody_record_events(deadline double precision, events json) FROM PUBLIC;
GRANT ALL ON FUNCTION auth.custody_record_events(deadline double precision, events json) TO custody_app;


--
-- Name: FUNCTION custody_register_kek(wanted text, its_backend text, its_locator text, its_fingerprint text, is_active boolean); Type: ACL; Schema: auth; Owner: custody_owner
--

REVOKE ALL ON FUNCTION auth.custody_register_kek(wanted text, its_backend text, its_locator text, its_fingerprint text, is_active boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION auth.custody_register_kek(wanted text, its_backend text, its_locator text, its_fingerprint text, is_active boolean) TO custody_app;
GRANT ALL ON FUNCTION auth.custody_register_kek(wanted text, its_backend text, its_locator text, its_fingerprint text, is_active boolean) TO custody_rewrap;


--
-- Name: FUNCTION custody_retire_kek(wanted text); Type: ACL; Schema: auth; Owner: custody_owner
--

REVOKE ALL ON FUNCTION auth.custody_retire_kek(wanted text) FROM PUBLIC;
GRANT ALL ON FUNCTION auth.custody_retire_kek(wanted text) TO custody_rewrap;


--
-- Name: FUNCTION custody_sample_wraps(wanted text); Type: ACL; Schema: auth; Owner: custody_owner
--

REVOKE ALL ON FUNCTION auth.custody_sample_wraps(wanted text) FROM PUBLIC;
GRANT ALL ON FUNCTION auth.custody_sample_wraps(wanted text) TO custody_app;
GRANT ALL ON FUNCTION auth.custody_sample_wraps(wanted text) TO custody_rewrap;


--
-- Name: TABLE custody_instances; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT SELECT,DELETE ON TABLE auth.custody_instances TO custody_app;
GRANT SELECT ON TABLE auth.custody_instances TO custody_rewrap;


--
-- Name: COLUMN custody_instances.id; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(id) ON TABLE auth.custody_instances TO custody_app;


--
-- Name: COLUMN custody_instances.host; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(host) ON TABLE auth.custody_instances TO custody_app;


--
-- Name: COLUMN custody_instances.process; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(process) ON TABLE auth.custody_instances TO custody_app;


--
-- Name: COLUMN custody_instances.writes_uri; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(writes_uri),UPDATE(writes_uri) ON TABLE auth.custody_instances TO custody_app;


--
-- Name: COLUMN custody_instances.writes_kek_id; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(writes_kek_id),UPDATE(writes_kek_id) ON TABLE auth.custody_instances TO custody_app;


--
-- Name: COLUMN custody_instances.reads; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(reads),UPDATE(reads) ON TABLE auth.custody_instances TO custody_app;


--
-- Name: COLUMN custody_instances.heartbeat_at; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(heartbeat_at) ON TABLE auth.custody_instances TO custody_app;


--
-- Name: TABLE custody_marks; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT SELECT ON TABLE auth.custody_marks TO custody_app;
GRANT SELECT ON TABLE auth.custody_marks TO custody_rewrap;


--
-- Name: TABLE encryption_keks; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT SELECT ON TABLE auth.encryption_keks TO custody_app;
GRANT SELECT ON TABLE auth.encryption_keks TO custody_rewrap;


--
-- Name: COLUMN encryption_vault_audit.id; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(id) ON TABLE auth.encryption_vault_audit TO custody_app;
GRANT INSERT(id) ON TABLE auth.encryption_vault_audit TO custody_rewrap;


--
-- Name: COLUMN encryption_vault_audit.user_id; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(user_id) ON TABLE auth.encryption_vault_audit TO custody_app;
GRANT INSERT(user_id) ON TABLE auth.encryption_vault_audit TO custody_rewrap;


--
-- Name: COLUMN encryption_vault_audit.action; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(action) ON TABLE auth.encryption_vault_audit TO custody_app;
GRANT INSERT(action) ON TABLE auth.encryption_vault_audit TO custody_rewrap;


--
-- Name: COLUMN encryption_vault_audit.ip_address; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(ip_address) ON TABLE auth.encryption_vault_audit TO custody_app;
GRANT INSERT(ip_address) ON TABLE auth.encryption_vault_audit TO custody_rewrap;


--
-- Name: COLUMN encryption_vault_audit.user_agent; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(user_agent) ON TABLE auth.encryption_vault_audit TO custody_app;
GRANT INSERT(user_agent) ON TABLE auth.encryption_vault_audit TO custody_rewrap;


--
-- Name: COLUMN encryption_vault_audit.context; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(context) ON TABLE auth.encryption_vault_audit TO custody_app;
GRANT INSERT(context) ON TABLE auth.encryption_vault_audit TO custody_rewrap;


--
-- Name: COLUMN encryption_vault_audit.status; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(status) ON TABLE auth.encryption_vault_audit TO custody_app;
GRANT INSERT(status) ON TABLE auth.encryption_vault_audit TO custody_rewrap;


--
-- Name: TABLE encryption_vaults; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT SELECT ON TABLE auth.encryption_vaults TO custody_app;


--
-- Name: COLUMN encryption_vaults.user_id; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(user_id) ON TABLE auth.encryption_vaults TO custody_app;
GRANT SELECT(user_id) ON TABLE auth.encryption_vaults TO custody_rewrap;


--
-- Name: COLUMN encryption_vaults.wrapped_mk; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(wrapped_mk),UPDATE(wrapped_mk) ON TABLE auth.encryption_vaults TO custody_app;
GRANT SELECT(wrapped_mk),UPDATE(wrapped_mk) ON TABLE auth.encryption_vaults TO custody_rewrap;


--
-- Name: COLUMN encryption_vaults.wrap_iv; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(wrap_iv),UPDATE(wrap_iv) ON TABLE auth.encryption_vaults TO custody_app;
GRANT SELECT(wrap_iv),UPDATE(wrap_iv) ON TABLE auth.encryption_vaults TO custody_rewrap;


--
-- Name: COLUMN encryption_vaults.format_version; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(format_version),UPDATE(format_version) ON TABLE auth.encryption_vaults TO custody_app;
GRANT SELECT(format_version),UPDATE(format_version) ON TABLE auth.encryption_vaults TO custody_rewrap;


--
-- Name: COLUMN encryption_vaults.kek_id; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(kek_id),UPDATE(kek_id) ON TABLE auth.encryption_vaults TO custody_app;
GRANT SELECT(kek_id),UPDATE(kek_id) ON TABLE auth.encryption_vaults TO custody_rewrap;


--
-- Name: COLUMN encryption_vaults.recovery_wrapped_mk; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(recovery_wrapped_mk) ON TABLE auth.encryption_vaults TO custody_app;


--
-- Name: COLUMN encryption_vaults.recovery_iv; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(recovery_iv) ON TABLE auth.encryption_vaults TO custody_app;


--
-- Name: COLUMN encryption_vaults.recovery_format_version; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(recovery_format_version) ON TABLE auth.encryption_vaults TO custody_app;


--
-- Name: COLUMN encryption_vaults.recovery_set_at; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(recovery_set_at) ON TABLE auth.encryption_vaults TO custody_app;


--
-- Name: COLUMN encryption_vaults.zero_knowledge; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(zero_knowledge) ON TABLE auth.encryption_vaults TO custody_app;


--
-- Name: COLUMN encryption_vaults.rotated_at; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(rotated_at) ON TABLE auth.encryption_vaults TO custody_app;


--
-- Name: COLUMN encryption_vaults.generation; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(generation),UPDATE(generation) ON TABLE auth.encryption_vaults TO custody_app;


--
-- Name: COLUMN encryption_vaults.key_check; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(key_check),UPDATE(key_check) ON TABLE auth.encryption_vaults TO custody_app;
GRANT SELECT(key_check) ON TABLE auth.encryption_vaults TO custody_rewrap;


--
-- Name: COLUMN encryption_vaults.row_version; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT SELECT(row_version) ON TABLE auth.encryption_vaults TO custody_rewrap;


--
-- Name: COLUMN encryption_vaults.rewrapped_at; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT SELECT(rewrapped_at),UPDATE(rewrapped_at) ON TABLE auth.encryption_vaults TO custody_rewrap;


--
-- Name: COLUMN encryption_vaults.quarantined_at; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(quarantined_at) ON TABLE auth.encryption_vaults TO custody_app;
GRANT SELECT(quarantined_at),UPDATE(quarantined_at) ON TABLE auth.encryption_vaults TO custody_rewrap;


--
-- Name: COLUMN encryption_vaults.quarantine_reason; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(quarantine_reason) ON TABLE auth.encryption_vaults TO custody_app;
GRANT SELECT(quarantine_reason),UPDATE(quarantine_reason) ON TABLE auth.encryption_vaults TO custody_rewrap;


--
-- Name: TABLE rewrap_claims; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT SELECT,DELETE ON TABLE auth.rewrap_claims TO custody_rewrap;


--
-- Name: COLUMN rewrap_claims.run_id; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(run_id) ON TABLE auth.rewrap_claims TO custody_rewrap;


--
-- Name: COLUMN rewrap_claims.owner; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(owner),UPDATE(owner) ON TABLE auth.rewrap_claims TO custody_rewrap;


--
-- Name: COLUMN rewrap_claims.kek_id; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(kek_id) ON TABLE auth.rewrap_claims TO custody_rewrap;


--
-- Name: COLUMN rewrap_claims.format; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(format) ON TABLE auth.rewrap_claims TO custody_rewrap;


--
-- Name: COLUMN rewrap_claims.above; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(above),UPDATE(above) ON TABLE auth.rewrap_claims TO custody_rewrap;


--
-- Name: COLUMN rewrap_claims.up_to; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(up_to) ON TABLE auth.rewrap_claims TO custody_rewrap;


--
-- Name: COLUMN rewrap_claims.heartbeat_at; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(heartbeat_at) ON TABLE auth.rewrap_claims TO custody_rewrap;


--
-- Name: TABLE rewrap_runs; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT SELECT ON TABLE auth.rewrap_runs TO custody_app;
GRANT SELECT ON TABLE auth.rewrap_runs TO custody_rewrap;


--
-- Name: COLUMN rewrap_runs.target; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(target) ON TABLE auth.rewrap_runs TO custody_rewrap;


--
-- Name: COLUMN rewrap_runs.everything; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(everything) ON TABLE auth.rewrap_runs TO custody_rewrap;


--
-- Name: COLUMN rewrap_runs.started_by; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(started_by) ON TABLE auth.rewrap_runs TO custody_rewrap;


--
-- Name: COLUMN rewrap_runs.sources; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(sources) ON TABLE auth.rewrap_runs TO custody_rewrap;


--
-- Name: COLUMN rewrap_runs.state; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(state) ON TABLE auth.rewrap_runs TO custody_rewrap;


--
-- Name: COLUMN rewrap_runs.total; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT INSERT(total) ON TABLE auth.rewrap_runs TO custody_rewrap;


--
-- Name: COLUMN rewrap_runs.done; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(done) ON TABLE auth.rewrap_runs TO custody_rewrap;


--
-- Name: COLUMN rewrap_runs.moved; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(moved) ON TABLE auth.rewrap_runs TO custody_rewrap;


--
-- Name: COLUMN rewrap_runs.failed; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(failed) ON TABLE auth.rewrap_runs TO custody_rewrap;


--
-- Name: COLUMN rewrap_runs.cursor_kek_id; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(cursor_kek_id) ON TABLE auth.rewrap_runs TO custody_rewrap;


--
-- Name: COLUMN rewrap_runs.cursor_format; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(cursor_format) ON TABLE auth.rewrap_runs TO custody_rewrap;


--
-- Name: COLUMN rewrap_runs.cursor_user_id; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(cursor_user_id) ON TABLE auth.rewrap_runs TO custody_rewrap;


--
-- Name: COLUMN rewrap_runs.heartbeat_at; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(heartbeat_at) ON TABLE auth.rewrap_runs TO custody_rewrap;


--
-- Name: COLUMN rewrap_runs.ended_at; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT UPDATE(ended_at) ON TABLE auth.rewrap_runs TO custody_rewrap;


--
-- Name: COLUMN users.id; Type: ACL; Schema: auth; Owner: custody_owner
--

GRANT SELECT(id),INSERT(id) ON TABLE auth.users TO custody_app;


--
-- PostgreSQL database dump complete
--

\unrestrict format2

