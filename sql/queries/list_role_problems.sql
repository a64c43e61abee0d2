-- What is unsafe in the role that asks, one row a problem: it must be able to do its duty and
-- nothing that would break a promise. $1 the duty: custody_app or custody_rewrap. $2 whether auth.users
-- is marked as our own, NULL: that is not known. $3 another role to check, NULL: the one that asks
WITH
me AS (
    SELECT oid, rolname,
           coalesce((SELECT pg_has_role(me.oid, duty.oid, 'USAGE') FROM pg_roles AS duty
                     WHERE duty.rolname = $1::text), false) AS inherits
    FROM pg_roles AS me WHERE rolname = coalesce($3::name, session_user)
),
mine AS (  -- every role whose rights this session has or can take on
    SELECT role.* FROM pg_roles AS role
    WHERE pg_has_role(coalesce($3::name, session_user), role.oid, 'MEMBER') OR pg_has_role(coalesce($3::name, current_user), role.oid, 'MEMBER')
),
relations AS (
    SELECT oid, relname::text AS name
    FROM pg_class WHERE relnamespace = to_regnamespace('auth') AND relkind IN ('r', 'p')
),
owned AS (
    SELECT pg_describe_object(classid, objid, objsubid) AS name FROM pg_shdepend
    WHERE deptype = 'o' AND refobjid IN (SELECT oid FROM mine)
        AND (dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
             OR (classid = 'pg_database'::regclass
                 AND objid = (SELECT oid FROM pg_database WHERE datname = current_database())))
    -- A table before the sequence of one of its columns, which goes with it.
    ORDER BY objid IN (SELECT seqrelid FROM pg_sequence), 1 LIMIT 1
),
url AS (  -- where the role comes from
    SELECT format('set %s to a login role that is a member of %s',
                  CASE $1::text WHEN 'custody_app' THEN 'CUSTODY_DATABASE_URL' ELSE 'CUSTODY_REWRAP_DATABASE_URL' END, $1::text) AS cure
),
shared (name) AS (  -- functions of both duties
    VALUES ('custody_add_data_key'), ('custody_audit_horizon'), ('custody_count_unsealed'),
           ('custody_doubt_kek'), ('custody_find_keks_in_use'), ('custody_register_kek'), ('custody_sample_rows')
),
plain AS (  -- checked in detail only if it is not the wrong role altogether
    SELECT me.* FROM me WHERE NOT EXISTS (SELECT 1 FROM mine WHERE rolsuper) AND NOT EXISTS (SELECT 1 FROM owned)
)
SELECT 'roles' AS kind,
       format('the role %s is superuser or may take such a role on; %s', rolname, url.cure) AS problem
FROM me, url WHERE EXISTS (SELECT 1 FROM mine WHERE rolsuper)
UNION ALL
SELECT 'roles', format('the role %s owns things (first: %s), and a runtime role owns nothing; %s', me.rolname, owned.name, url.cure)
FROM me, owned, url WHERE NOT EXISTS (SELECT 1 FROM mine WHERE rolsuper)
UNION ALL
SELECT 'roles', format('the session of %s acts as %s; %s', session_user, current_user, url.cure)
FROM url WHERE session_user <> current_user AND $3::name IS NULL
UNION ALL
SELECT 'roles', format('the role %s skips row-level security; run: ALTER ROLE %I NOBYPASSRLS', mine.rolname, mine.rolname)
FROM plain, mine WHERE rolbypassrls
UNION ALL
SELECT 'roles', format('the role %s may make roles; run: ALTER ROLE %I NOCREATEROLE', mine.rolname, mine.rolname)
FROM plain, mine WHERE rolcreaterole
UNION ALL
SELECT 'roles', format('the role %s may stream all rows; run: ALTER ROLE %I NOREPLICATION', mine.rolname, mine.rolname)
FROM plain, mine WHERE rolreplication
UNION ALL
SELECT 'roles', format('the role %s may act on the server''s files or programs; run: REVOKE %I FROM %I', plain.rolname, mine.rolname, plain.rolname)
FROM plain, mine
WHERE mine.rolname IN ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program')
UNION ALL
-- All the rest follows from that. One that has the other duty comes of a wrong URL: with both it would
-- be refused as well.
SELECT 'stranger', format('the role %s is not %s nor a member of it; ', rolname, $1)
    || CASE WHEN EXISTS (SELECT 1 FROM mine WHERE mine.rolname IN ('custody_app', 'custody_rewrap'))
       THEN format(CASE $1 WHEN 'custody_app' THEN 'it is one for re-wraps: set CUSTODY_DATABASE_URL to a login role that is a member of %s'
                           ELSE 'it is one for the daemon: set CUSTODY_REWRAP_DATABASE_URL to a login role that is a member of %s' END, $1)
       ELSE format('run: GRANT %s TO %I', $1, rolname) END
FROM plain WHERE NOT EXISTS (SELECT 1 FROM mine WHERE mine.rolname = $1)
UNION ALL
-- One that inherits no rights lacks them all: that is said once, with what gives it all of them.
SELECT 'roles', format('the role %s is a member of %s and does not inherit its rights; run: %s', rolname, $1,
    format(CASE WHEN current_setting('server_version_num')::integer < 160000 THEN 'GRANT %1$s TO %2$I; ALTER ROLE %2$I INHERIT'
                ELSE 'GRANT %1$s TO %2$I WITH INHERIT TRUE' END, $1, rolname))
FROM plain WHERE NOT inherits AND EXISTS (SELECT 1 FROM mine WHERE mine.rolname = $1)
UNION ALL
SELECT 'roles', format('the role %s is a member of both runtime roles; one login role per duty: run REVOKE on one', rolname)
FROM plain WHERE (SELECT count(*) FROM mine WHERE mine.rolname IN ('custody_app', 'custody_rewrap')) > 1
UNION ALL
SELECT 'roles', format('the role %s may %s auth.%s; run: REVOKE %s ON auth.%s FROM custody_app, custody_rewrap, PUBLIC, %I', plain.rolname, forbidden.privilege, relations.name, forbidden.privilege, relations.name, plain.rolname)
FROM plain, relations, unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER']) AS forbidden (privilege)
WHERE (relations.name LIKE 'encryption\_%' OR relations.name IN ('users', 'custody_marks'))
    AND NOT (relations.name = 'encryption_vaults' AND forbidden.privilege = 'UPDATE')
    -- KEKs and data keys are written by functions alone, and the owner alone marks.
    AND NOT (relations.name NOT IN ('encryption_keks', 'encryption_data_keys', 'encryption_data_key_wraps', 'encryption_audit_checkpoints', 'encryption_audit_prunes', 'custody_marks')
             AND forbidden.privilege = 'INSERT')
    AND EXISTS (
        SELECT 1 FROM mine
        WHERE has_table_privilege(mine.oid, relations.oid, forbidden.privilege)
           OR (forbidden.privilege IN ('INSERT', 'UPDATE')
               AND has_any_column_privilege(mine.oid, relations.oid, forbidden.privilege))
    )
UNION ALL
-- The row-level security of a table holds for who asks the table, not for who asks a partition of it.
SELECT 'roles', format('the role %s may read %s past the row-level security of auth.%s; run: REVOKE ALL ON %s FROM custody_app, custody_rewrap, PUBLIC, %I', plain.rolname, partition.relid, relations.name, partition.relid, plain.rolname)
FROM plain, relations, pg_partition_tree(relations.oid) AS partition
WHERE relations.name IN ('encryption_vaults', 'encryption_vault_audit', 'users') AND partition.level > 0
    AND EXISTS (SELECT 1 FROM mine WHERE has_any_column_privilege(mine.oid, partition.relid, 'SELECT'))
UNION ALL
SELECT 'roles', format('the role %s may UPDATE %s of auth.encryption_vaults; run: REVOKE UPDATE ON auth.encryption_vaults FROM custody_app, custody_rewrap, PUBLIC, %I, then sql/migrations again by psql', plain.rolname, attname, plain.rolname)
FROM plain, relations JOIN pg_attribute ON attrelid = relations.oid
WHERE relations.name = 'encryption_vaults' AND attnum > 0 AND NOT attisdropped
    AND (attname IN ('user_id', 'created_at', 'row_version', 'seal_serial')
         OR ($1 = 'custody_rewrap' AND attname LIKE ANY (ARRAY['recovery\_%', 'previous\_%', 'zero\_knowledge', 'generation', 'key\_check', 'seal'])))
    AND EXISTS (SELECT 1 FROM mine WHERE has_column_privilege(mine.oid, relations.oid, attnum, 'UPDATE'))
UNION ALL
SELECT 'roles', format('the role %s may SELECT %s of auth.encryption_vaults; run: REVOKE SELECT ON auth.encryption_vaults FROM custody_rewrap, PUBLIC, %I, then sql/migrations again by psql', plain.rolname, min(attname::text), plain.rolname)
FROM plain, relations JOIN pg_attribute ON attrelid = relations.oid
WHERE relations.name = 'encryption_vaults' AND $1 = 'custody_rewrap'
    AND attname LIKE ANY (ARRAY['recovery\_%', 'previous\_%']) AND NOT attisdropped
    AND (SELECT count(*) FROM mine WHERE mine.rolname IN ('custody_app', 'custody_rewrap')) < 2
    AND EXISTS (SELECT 1 FROM mine WHERE has_column_privilege(mine.oid, relations.oid, attnum, 'SELECT'))
GROUP BY plain.rolname
UNION ALL
SELECT 'roles', format('the role %s may %s auth.%s, which is not its duty; run: REVOKE %s ON auth.%s FROM %s, PUBLIC, %I', plain.rolname, forbidden.privilege, relations.name, forbidden.privilege, relations.name, $1, plain.rolname)
FROM plain, (VALUES
    ('custody_app', 'rewrap_runs', ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER']),
    ('custody_app', 'rewrap_claims', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER']),
    ('custody_app', 'custody_instances', ARRAY['TRUNCATE', 'TRIGGER']),
    ('custody_rewrap', 'rewrap_runs', ARRAY['DELETE', 'TRUNCATE', 'TRIGGER']),
    ('custody_rewrap', 'rewrap_claims', ARRAY['TRUNCATE', 'TRIGGER']),
    ('custody_rewrap', 'custody_instances', ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER'])
) AS other (duty, tablename, privileges)
JOIN relations ON relations.name = other.tablename, unnest(other.privileges) AS forbidden (privilege)
WHERE other.duty = $1
    -- Whoever has both duties, or another one, is named above.
    AND EXISTS (SELECT 1 FROM mine WHERE mine.rolname = $1)
    AND (SELECT count(*) FROM mine WHERE mine.rolname IN ('custody_app', 'custody_rewrap')) < 2
    AND EXISTS (
        SELECT 1 FROM mine
        WHERE has_table_privilege(mine.oid, relations.oid, forbidden.privilege)
           OR (forbidden.privilege IN ('SELECT', 'INSERT', 'UPDATE')
               AND has_any_column_privilege(mine.oid, relations.oid, forbidden.privilege))
    )
UNION ALL
SELECT 'roles', format('the role %s may SELECT %s of auth.users; run: REVOKE SELECT ON auth.users FROM custody_app, custody_rewrap, PUBLIC, %I, then sql/migrations again by psql', plain.rolname, min(attname::text), plain.rolname)
FROM plain, relations JOIN pg_attribute ON attrelid = relations.oid
WHERE relations.name = 'users' AND $2::boolean IS FALSE AND attnum > 0 AND NOT attisdropped AND attname <> 'id'
    AND EXISTS (SELECT 1 FROM mine WHERE has_column_privilege(mine.oid, relations.oid, attnum, 'SELECT'))
GROUP BY plain.rolname
UNION ALL
SELECT 'roles', format('the role %s may make things in the schema auth; run: REVOKE CREATE ON SCHEMA auth FROM custody_app, custody_rewrap, PUBLIC, %I', plain.rolname, plain.rolname)
FROM plain, pg_namespace
WHERE nspname = 'auth' AND EXISTS (SELECT 1 FROM mine WHERE has_schema_privilege(mine.oid, pg_namespace.oid, 'CREATE'))
UNION ALL
SELECT 'roles', format('the role %s may not use the schema auth, which belongs to %s; run: GRANT USAGE ON SCHEMA auth TO %I', plain.rolname, pg_get_userbyid(nspowner), $1)
FROM plain, pg_namespace
WHERE nspname = 'auth' AND NOT has_schema_privilege(coalesce($3::name, session_user), pg_namespace.oid, 'USAGE')
    AND plain.inherits
UNION ALL
-- Without INSERT on the audit the routes answer 503 by themselves: that alone shuts nothing.
-- Without SELECT there, users can't read their own rows, and all else works.
SELECT CASE WHEN needed.tablename <> 'encryption_vault_audit' THEN 'roles'
            WHEN needed.privilege = 'SELECT' THEN 'trail' ELSE 'audit' END,
       format('the role %s may not %s auth.%s: a right of %s is missing, or not inherited; run sql/migrations again by psql', plain.rolname, needed.privilege, needed.tablename, $1)
FROM plain, (VALUES
    ('custody_app', 'users', 'SELECT'),
    ('custody_app', 'encryption_vaults', 'SELECT'),
    ('custody_app', 'encryption_vaults', 'INSERT'),
    ('custody_app', 'encryption_vaults', 'UPDATE'),
    ('custody_app', 'encryption_vault_audit', 'INSERT'),
    ('custody_app', 'encryption_vault_audit', 'SELECT'),
    ('custody_app', 'encryption_audit_checkpoints', 'SELECT'),
    ('custody_app', 'encryption_audit_prunes', 'SELECT'),
    ('custody_app', 'encryption_keks', 'SELECT'),
    ('custody_app', 'encryption_data_keys', 'SELECT'),
    ('custody_app', 'encryption_data_key_wraps', 'SELECT'),
    ('custody_app', 'custody_marks', 'SELECT'),
    ('custody_app', 'custody_instances', 'SELECT'),
    ('custody_app', 'custody_instances', 'INSERT'),
    ('custody_app', 'custody_instances', 'UPDATE'),
    ('custody_rewrap', 'custody_marks', 'SELECT'),
    ('custody_rewrap', 'custody_instances', 'SELECT'),
    ('custody_rewrap', 'rewrap_runs', 'SELECT'),
    ('custody_rewrap', 'rewrap_runs', 'INSERT'),
    ('custody_rewrap', 'rewrap_runs', 'UPDATE'),
    ('custody_rewrap', 'rewrap_claims', 'SELECT'),
    ('custody_rewrap', 'rewrap_claims', 'INSERT'),
    ('custody_rewrap', 'rewrap_claims', 'UPDATE'),
    ('custody_rewrap', 'encryption_vaults', 'SELECT'),
    ('custody_rewrap', 'encryption_vaults', 'UPDATE'),
    ('custody_rewrap', 'encryption_vault_audit', 'INSERT'),
    ('custody_rewrap', 'encryption_keks', 'SELECT'),
    ('custody_rewrap', 'encryption_data_keys', 'SELECT'),
    ('custody_rewrap', 'encryption_data_key_wraps', 'SELECT')
) AS needed (duty, tablename, privilege)
JOIN relations ON relations.name = needed.tablename
WHERE needed.duty = $1 AND NOT has_any_column_privilege(coalesce($3::name, session_user), relations.oid, needed.privilege)
    AND plain.inherits
UNION ALL
SELECT 'roles',
       CASE WHEN needed.duty = $1
            THEN format('the role %s may not run auth.%s; run sql/migrations again by psql', plain.rolname, proname)
            ELSE format('the role %s may run auth.%s, which is not its duty; run: REVOKE EXECUTE ON FUNCTION auth.%I FROM %I, PUBLIC, %I', plain.rolname, proname, proname, $1, plain.rolname)
       END
FROM plain, (
    VALUES
    ('custody_app', 'custody_add_audit_checkpoint'),
    ('custody_app', 'custody_add_user'),
    ('custody_app', 'custody_audit_leaves'),
    ('custody_app', 'custody_find_due_erasures'),
    ('custody_app', 'custody_load_vaults'),
    ('custody_app', 'custody_record_events'),
    ('custody_rewrap', 'custody_announce_data_key'),
    ('custody_rewrap', 'custody_drop_data_key_wrap'),
    ('custody_rewrap', 'custody_end_data_key'),
    ('custody_rewrap', 'custody_load_sealed_before'),
    ('custody_rewrap', 'custody_promote_data_key'),
    ('custody_rewrap', 'custody_put_data_key_wrap'),
    ('custody_rewrap', 'custody_read_unsealed'),
    ('custody_rewrap', 'custody_reseal_kek'),
    ('custody_rewrap', 'custody_reseal_rows'),
    ('custody_rewrap', 'custody_retire_kek'),
    ('custody_rewrap', 'custody_seal_rows'),
    ('the owner', 'custody_choose_rows'),
    ('the owner', 'custody_forget_kek'),
    ('the owner', 'custody_list_rows'),
    ('the owner', 'custody_load_rows'),
    ('the owner', 'custody_load_states'),
    ('the owner', 'custody_refuse_retired_keks')
    UNION ALL
    SELECT duty, name FROM unnest(ARRAY['custody_app', 'custody_rewrap']) AS duty, shared
) AS needed (duty, name)
JOIN pg_proc ON proname = needed.name AND pronamespace = to_regnamespace('auth')
WHERE CASE
    WHEN needed.duty = $1
        THEN NOT has_function_privilege(coalesce($3::name, session_user), pg_proc.oid, 'EXECUTE')
            AND plain.inherits
    -- The other duty's; whoever has both is named above.
    ELSE needed.name NOT IN (SELECT name FROM shared)
        AND EXISTS (SELECT 1 FROM mine WHERE has_function_privilege(mine.oid, pg_proc.oid, 'EXECUTE'))
        AND NOT EXISTS (SELECT 1 FROM mine WHERE mine.rolname = needed.duty)
END
ORDER BY 1, 2
