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
