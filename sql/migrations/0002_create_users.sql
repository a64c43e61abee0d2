-- auth.users, made only where it is missing. The comment marks a table of our own: there the
-- daemon adds a user at /init. A table that someone else keeps is left as it is, and runtime
-- roles may read its id only.

DO $$
BEGIN
    IF to_regclass('auth.users') IS NULL THEN
        CREATE TABLE auth.users (
            id          TEXT PRIMARY KEY,
            created_at  TIMESTAMPTZ NOT NULL DEFAULT now()
        );
        COMMENT ON TABLE auth.users IS 'custody: made by custody, which adds a user at /init';
    END IF;

    IF obj_description('auth.users'::regclass, 'pg_class') LIKE 'custody:%' THEN
        ALTER TABLE auth.users ENABLE ROW LEVEL SECURITY;
        ALTER TABLE auth.users FORCE ROW LEVEL SECURITY;
        DROP POLICY IF EXISTS users_own_row ON auth.users;
        CREATE POLICY users_own_row ON auth.users
            USING (id = nullif(current_setting('app.current_user_id', true), ''))
            WITH CHECK (id = nullif(current_setting('app.current_user_id', true), ''));
        GRANT INSERT (id) ON auth.users TO custody_app;
    END IF;

    GRANT SELECT (id) ON auth.users TO custody_app;
END
$$;

-- A function, because a plain INSERT would be refused where the table is someone else's, even if
-- it had nothing to insert. It runs with the rights of the caller.
CREATE OR REPLACE FUNCTION auth.custody_add_user(wanted TEXT) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF obj_description('auth.users'::regclass, 'pg_class') LIKE 'custody:%' THEN
        INSERT INTO auth.users (id) VALUES (wanted) ON CONFLICT (id) DO NOTHING;
    END IF;
END
$$;

REVOKE ALL ON FUNCTION auth.custody_add_user(TEXT) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.custody_add_user(TEXT) TO custody_app;
