-- The roles that pg_dump can log in as, and that are no superusers: row-level security is forced, so it takes
-- BYPASSRLS, which no role inherits, and the right to read all tables and sequences.
SELECT role.rolname::text AS name
FROM pg_roles AS role
WHERE role.rolbypassrls AND role.rolcanlogin AND NOT role.rolsuper
    AND has_schema_privilege(role.oid, to_regnamespace('auth'), 'USAGE')
    AND NOT EXISTS (
        SELECT 1 FROM pg_class
        WHERE relnamespace = to_regnamespace('auth') AND relkind IN ('r', 'p', 'S')
            AND NOT has_table_privilege(role.oid, pg_class.oid, 'SELECT')
    )
ORDER BY 1
