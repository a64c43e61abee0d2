-- What would keep the migrations of this role from working, or would let them do harm, one row a problem
-- with its cure: a GRANT of what may not be passed on is a warning only, and does nothing.
WITH
names AS (
    SELECT oid, nspname, pg_get_userbyid(nspowner) AS owner FROM pg_namespace WHERE nspname = 'auth'
),
duties AS (
    SELECT oid FROM pg_roles WHERE rolname IN ('custody_app', 'custody_rewrap')
),
users AS (
    SELECT pg_class.oid, pg_get_userbyid(relowner) AS owner,
           coalesce(obj_description(pg_class.oid, 'pg_class') LIKE 'custody:%', false) AS has_comment
    FROM pg_class JOIN names ON names.oid = relnamespace WHERE relname = 'users'
),
ids AS (
    SELECT users.*, attnum, format_type(atttypid, atttypmod) AS type, atttypid
    FROM users LEFT JOIN pg_attribute ON attrelid = users.oid AND attname = 'id' AND NOT attisdropped
),
runtime AS (  -- a role that lives by the schema and owns nothing: no GRANT would make it an owner
    SELECT format('%s is a runtime role, and not the owner of the schema auth; set CUSTODY_OWNER_DATABASE_URL to a login role that is a member of %s', current_user, owner) AS problem
    FROM names
    WHERE NOT pg_has_role(owner, 'MEMBER') AND EXISTS (SELECT 1 FROM duties WHERE pg_has_role(duties.oid, 'USAGE'))
)
SELECT problem FROM runtime
UNION ALL
SELECT format('the encoding of the database is %s, and user ids and user agents need UTF8; move it with pg_dump and pg_restore into one that is made by: CREATE DATABASE %I ENCODING ''UTF8'' TEMPLATE template0', pg_encoding_to_char(encoding), datname || '_utf8') AS problem
FROM pg_database WHERE datname = current_database() AND pg_encoding_to_char(encoding) <> 'UTF8'
UNION ALL
SELECT format('the schema auth belongs to %s, and %s may not make things in it and let the runtime roles use it; as %s run: GRANT USAGE, CREATE ON SCHEMA auth TO %I WITH GRANT OPTION', owner, current_user, owner, current_user)
FROM names
WHERE (NOT has_schema_privilege(oid, 'CREATE')
       OR NOT has_schema_privilege(oid, 'USAGE WITH GRANT OPTION')
          AND (SELECT count(*) FROM duties WHERE has_schema_privilege(duties.oid, names.oid, 'USAGE')) < 2)
    AND NOT EXISTS (SELECT 1 FROM runtime)
UNION ALL
SELECT format('auth.users %s, and a user is named by text here, the sub of a token; give custody a database of its own, where it makes this table, or change the column and all that refers to it; run: ALTER TABLE auth.users ALTER COLUMN id TYPE text', coalesce('has the id as ' || type, 'has no column id'))
FROM ids WHERE atttypid IS NULL OR atttypid NOT IN ('text'::regtype, 'varchar'::regtype)
UNION ALL
SELECT format('auth.users belongs to %s, and %s may not refer to its id and let custody_app read that; as %s run: GRANT SELECT (id) ON auth.users TO %I WITH GRANT OPTION; GRANT REFERENCES (id) ON auth.users TO %I', owner, current_user, owner, current_user, current_user)
FROM ids
WHERE attnum IS NOT NULL AND NOT EXISTS (SELECT 1 FROM runtime)
    AND (NOT has_column_privilege(oid, attnum, 'REFERENCES')
         OR NOT has_column_privilege(oid, attnum, 'SELECT WITH GRANT OPTION')
            AND NOT EXISTS (SELECT 1 FROM pg_roles
                            WHERE rolname = 'custody_app' AND has_column_privilege(pg_roles.oid, ids.oid, attnum, 'SELECT')))
UNION ALL
-- 0002 would take it for custody's own, and put it under row-level security.
SELECT 'auth.users is somebody else''s, and its comment begins with custody:, which marked custody''s own; run: COMMENT ON TABLE auth.users IS NULL'
FROM users
WHERE has_comment
    AND NOT EXISTS (SELECT 1 FROM pg_class JOIN names ON names.oid = relnamespace
                    WHERE relname IN ('custody_migrations', 'encryption_keks'))
ORDER BY 1
