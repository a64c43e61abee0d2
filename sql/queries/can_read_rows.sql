-- Whether rows can be verified in a database of this release, and whether this role may read them. By the
-- catalog, since to_regprocedure fails for a role that may not use the schema.
SELECT count(*) > 0 AS is_migrated,
       coalesce(bool_and(has_function_privilege(pg_proc.oid, 'EXECUTE')
                         AND has_schema_privilege(pronamespace, 'USAGE')), false) AS may_read
FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
WHERE nspname = 'auth' AND proname IN ('custody_choose_rows', 'custody_list_rows', 'custody_load_rows')
