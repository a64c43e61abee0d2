-- auth.custody_marks: whether auth.users is custody's own table, as data. A comment on the table said
-- so until now, and a comment is easily changed, or left out of a dump. A table that was there before
-- custody is never marked as its own.

CREATE TABLE IF NOT EXISTS auth.custody_marks (
    table_name  TEXT PRIMARY KEY,
    ours        BOOLEAN NOT NULL
);

COMMENT ON TABLE auth.custody_marks IS 'Whether a table that others may keep is custody''s own';

REVOKE ALL ON auth.custody_marks FROM PUBLIC, custody_app, custody_rewrap;
GRANT SELECT ON auth.custody_marks TO custody_app, custody_rewrap;

-- Where there is no mark (the first time, or because it was lost) what 0002 made tells: the policy
-- that it gives to no other table, or its comment, on a table that begins as its own does.
INSERT INTO auth.custody_marks (table_name, ours)
SELECT 'users',
       (EXISTS (SELECT 1 FROM pg_policies
                WHERE schemaname = 'auth' AND tablename = 'users' AND policyname = 'users_own_row')
        OR coalesce(obj_description('auth.users'::regclass, 'pg_class')
                    = 'custody: made by custody, which adds a user at /init', false))
       AND (SELECT count(*) FROM pg_attribute
            WHERE attrelid = 'auth.users'::regclass AND NOT attisdropped
                AND (attnum, attname, atttypid) IN ((1, 'id', 'text'::regtype),
                                                    (2, 'created_at', 'timestamptz'::regtype))) = 2
ON CONFLICT (table_name) DO NOTHING;

-- What makes it safe is made again from the mark alone.
DO $$
BEGIN
    IF (SELECT ours FROM auth.custody_marks WHERE table_name = 'users') THEN
        ALTER TABLE auth.users ENABLE ROW LEVEL SECURITY;
        ALTER TABLE auth.users FORCE ROW LEVEL SECURITY;
        DROP POLICY IF EXISTS users_own_row ON auth.users;
        CREATE POLICY users_own_row ON auth.users
            USING (id = nullif(current_setting('app.current_user_id', true), ''))
            WITH CHECK (id = nullif(current_setting('app.current_user_id', true), ''));
        GRANT INSERT (id) ON auth.users TO custody_app;
    END IF;
END
$$;

-- As in 0002, but it goes by the mark.
CREATE OR REPLACE FUNCTION auth.custody_add_user(wanted TEXT) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT ours FROM auth.custody_marks WHERE table_name = 'users') THEN
        INSERT INTO auth.users (id) VALUES (wanted) ON CONFLICT (id) DO NOTHING;
    END IF;
END
$$;

-- As in 0009, but it goes by the mark.
CREATE OR REPLACE FUNCTION auth.custody_read_vaults(wanted TEXT[])
    RETURNS TABLE (place INTEGER, clock DOUBLE PRECISION, known BOOLEAN, user_id TEXT,
                   wrapped_mk TEXT, wrap_iv TEXT, format_version SMALLINT, kek_id TEXT,
                   recovery_wrapped_mk TEXT, recovery_iv TEXT, recovery_format_version SMALLINT,
                   recovery_set_at TIMESTAMPTZ, zero_knowledge BOOLEAN, generation BIGINT,
                   key_check TEXT, row_version BIGINT)
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
