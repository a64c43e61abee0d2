-- What is to be done about a database that custody has never migrated; NULL: it has. Looked up in the
-- catalog: who may not use the schema may ask, too.
SELECT CASE WHEN pg_encoding_to_char(encoding) = 'UTF8'
    THEN format('the database %s has no schema of custody; run: custody migrate', datname)
    ELSE format('the encoding of the database is %s, and user ids and user agents need UTF8; move it with pg_dump and pg_restore into one that is made by: CREATE DATABASE %I ENCODING ''UTF8'' TEMPLATE template0', pg_encoding_to_char(encoding), datname || '_utf8')
END
FROM pg_database
WHERE datname = current_database() AND NOT EXISTS (
    SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = 'auth' AND relname IN ('custody_migrations', 'custody_marks', 'encryption_keks', 'rewrap_runs')
)
