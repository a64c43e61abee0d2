-- The schema, and the two runtime roles where they are missing.
-- Both are made NOLOGIN: an administrator makes login roles that are members of one of them, or
-- gives one of them LOGIN and a password. Neither may be superuser or BYPASSRLS, or own anything.

DO $$
BEGIN
    IF to_regnamespace('auth') IS NULL THEN
        CREATE SCHEMA auth;
    END IF;
END
$$;

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['custody_app', 'custody_rewrap'] LOOP
        IF to_regrole(wanted) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB', wanted);
            EXCEPTION
                -- Another database of this cluster is being migrated at this moment.
                WHEN duplicate_object OR unique_violation THEN NULL;
                WHEN insufficient_privilege THEN
                    RAISE EXCEPTION 'the role % is missing and % may not make it', wanted, current_user
                        USING ERRCODE = 'insufficient_privilege',
                              HINT = 'As an administrator run: CREATE ROLE custody_app NOLOGIN; CREATE ROLE custody_rewrap NOLOGIN;';
            END;
        END IF;
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA auth TO custody_app, custody_rewrap;
