-- Whether auth.custody_marks is there, and this role may read it.
SELECT coalesce(bool_or(
    has_schema_privilege(relnamespace, 'USAGE') AND has_table_privilege(oid, 'SELECT')
    AND (SELECT count(*) FROM pg_attribute
         WHERE attrelid = pg_class.oid AND attname IN ('table_name', 'ours') AND NOT attisdropped) = 2
), false)
FROM pg_class
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'auth')
    AND relname = 'custody_marks' AND relkind IN ('r', 'p')
