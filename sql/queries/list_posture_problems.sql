-- What is unsafe in the schema or in the role that asks, one row a problem. Nothing comes back
-- when the promises of row-level security and of the append-only audit hold for this role.
-- Tables are looked up in the catalog: to_regclass fails for a role that may not use the schema.
-- $1 the duty of the role: custody_app or custody_rewrap
WITH
me AS (
    SELECT oid, rolname FROM pg_roles WHERE rolname = current_user
),
mine AS (  -- every role whose rights this one has or can take on
    SELECT role.* FROM pg_roles AS role WHERE pg_has_role(current_user, role.oid, 'MEMBER')
),
relations AS (
    SELECT oid, relname::text AS name, relrowsecurity AND relforcerowsecurity AS forced,
           coalesce(obj_description(oid, 'pg_class') LIKE 'custody:%', false) AS ours
    FROM pg_class WHERE relnamespace = to_regnamespace('auth') AND relkind IN ('r', 'p')
),
scoped AS (  -- the tables that must be under forced row-level security
    SELECT * FROM relations
    WHERE name IN ('encryption_vaults', 'encryption_vault_audit') OR (name = 'users' AND ours)
),
functions AS (
    SELECT oid, proname::text AS name, pg_get_userbyid(proowner) AS owner FROM pg_proc
    WHERE pronamespace = to_regnamespace('auth')
),
policies (tablename, policyname, cmd, qual, with_check) AS (
    SELECT 'encryption_vaults', 'encryption_vaults_own_row', 'ALL', own.row, own.row
    FROM (VALUES ('(user_id = NULLIF(current_setting(''app.current_user_id''::text, true), ''''::text))')) AS own (row)
    UNION ALL
    SELECT 'encryption_vault_audit', 'encryption_vault_audit_own_row', 'ALL', own.row, own.row
    FROM (VALUES ('(user_id = NULLIF(current_setting(''app.current_user_id''::text, true), ''''::text))')) AS own (row)
    UNION ALL
    SELECT 'users', 'users_own_row', 'ALL', own.row, own.row
    FROM (VALUES ('(id = NULLIF(current_setting(''app.current_user_id''::text, true), ''''::text))')) AS own (row)
    UNION ALL VALUES
    ('encryption_vaults', 'encryption_vaults_rewrap_read', 'SELECT', 'true', NULL),
    ('encryption_vaults', 'encryption_vaults_rewrap_write', 'UPDATE', '(wrapped_mk IS NOT NULL)', '(wrapped_mk IS NOT NULL)'),
    ('encryption_vaults', 'encryption_vaults_kek_sample', 'SELECT',
     '(kek_id = NULLIF(current_setting(''custody.sampled_kek_id''::text, true), ''''::text))', NULL),
    ('encryption_vault_audit', 'encryption_vault_audit_rewrap', 'INSERT', NULL,
     '(action = ANY (ARRAY[''rewrap_run''::text, ''rewrap_failed''::text]))')
),
found AS (
    SELECT tablename::text, policyname::text, cmd, qual, with_check, roles, permissive
    FROM pg_policies
    WHERE schemaname = 'auth' AND tablename IN (SELECT name FROM scoped)
)
SELECT 'roles' AS part,
       format('the role %s is superuser or may take such a role on; connect as a plain member of %s', rolname, $1::text) AS problem
FROM me WHERE EXISTS (SELECT 1 FROM mine WHERE rolsuper)
UNION ALL
SELECT 'roles', format('the role %s skips row-level security; run: ALTER ROLE %I NOBYPASSRLS', mine.rolname, mine.rolname)
FROM mine WHERE rolbypassrls AND NOT rolsuper
UNION ALL
SELECT 'roles', format('the role %s may make roles; run: ALTER ROLE %I NOCREATEROLE', mine.rolname, mine.rolname)
FROM mine WHERE rolcreaterole AND NOT rolsuper
UNION ALL
SELECT 'roles', format('the role %s is not %s nor a member of it; run: GRANT %s TO %I', rolname, $1, $1, rolname)
FROM me WHERE NOT EXISTS (SELECT 1 FROM mine WHERE mine.rolname = $1)
UNION ALL
SELECT 'roles', format('the role %s is a member of both runtime roles; one login role per duty: run REVOKE on one', rolname)
FROM me WHERE NOT EXISTS (SELECT 1 FROM mine WHERE rolsuper)
    AND (SELECT count(*) FROM mine WHERE mine.rolname IN ('custody_app', 'custody_rewrap')) > 1
UNION ALL
SELECT 'roles', format('the role %s owns %s; a runtime role owns nothing: change the owner', me.rolname, owned.name)
FROM me, (
    SELECT relowner AS owner, 'auth.' || relname AS name FROM pg_class
    WHERE relnamespace = to_regnamespace('auth') AND relkind IN ('r', 'p', 'v', 'm', 'S')
    UNION ALL
    SELECT nspowner, 'the schema auth' FROM pg_namespace WHERE nspname = 'auth'
    UNION ALL
    SELECT datdba, 'the database' FROM pg_database WHERE datname = current_database()
    UNION ALL
    SELECT proowner, 'the function auth.' || proname FROM pg_proc WHERE pronamespace = to_regnamespace('auth')
) AS owned
WHERE owned.owner IN (SELECT oid FROM mine)
    AND NOT EXISTS (SELECT 1 FROM mine WHERE rolsuper)
UNION ALL
SELECT 'schema', format('auth.%s is missing; run: custody migrate, or sql/migrations again by psql', name)
FROM unnest(ARRAY['users', 'encryption_vaults', 'encryption_vault_audit', 'encryption_keks']) AS wanted (name)
WHERE wanted.name NOT IN (SELECT relations.name FROM relations)
UNION ALL
SELECT 'schema', format('the function auth.%s is missing; run: custody migrate, or sql/migrations again by psql', wanted.name)
FROM unnest(ARRAY['custody_add_user', 'custody_sample_wraps']) AS wanted (name)
WHERE wanted.name NOT IN (SELECT functions.name FROM functions)
UNION ALL
SELECT 'schema', format('auth.%s has no column %s; run: custody migrate, or sql/migrations again by psql', relations.name, columns.name)
FROM (VALUES
    ('encryption_vaults', ARRAY['user_id', 'wrapped_mk', 'wrap_iv', 'format_version', 'kek_id',
     'recovery_wrapped_mk', 'recovery_iv', 'recovery_format_version', 'recovery_set_at',
     'zero_knowledge', 'created_at', 'rotated_at', 'generation', 'key_check', 'row_version',
     'rewrapped_at', 'quarantined_at', 'quarantine_reason']),
    ('encryption_vault_audit', ARRAY['id', 'user_id', 'action', 'ip_address', 'user_agent',
     'context', 'status', 'created_at']),
    ('encryption_keks', ARRAY['kek_id', 'fingerprint', 'recorded_at']),
    ('users', ARRAY['id'])
) AS wanted (tablename, names)
JOIN relations ON relations.name = wanted.tablename, unnest(wanted.names) AS columns (name)
WHERE NOT EXISTS (
    SELECT 1 FROM pg_attribute
    WHERE attrelid = relations.oid AND attname = columns.name AND NOT attisdropped
)
UNION ALL
SELECT 'schema', format('row-level security is not enabled and forced on auth.%s; run: ALTER TABLE auth.%s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name, name)
FROM scoped WHERE NOT forced
UNION ALL
SELECT 'schema', format('the policy %s is missing or was changed; run sql/migrations again by psql', policies.policyname)
FROM policies JOIN scoped ON scoped.name = policies.tablename
LEFT JOIN found USING (tablename, policyname)
WHERE found.policyname IS NULL OR found.permissive <> 'PERMISSIVE'
    OR (found.cmd, found.qual, found.with_check) IS DISTINCT FROM (policies.cmd, policies.qual, policies.with_check)
UNION ALL
SELECT 'schema', format('the policy %s on auth.%s is not ours and opens rows; run: DROP POLICY %I ON auth.%I', found.policyname, found.tablename, found.policyname, found.tablename)
FROM found LEFT JOIN policies USING (tablename, policyname)
WHERE policies.policyname IS NULL AND found.permissive = 'PERMISSIVE'
UNION ALL
SELECT 'schema', format('the policy %s is given to another role than its own; run sql/migrations again by psql, as the owner', policyname)
FROM found
WHERE CASE
    WHEN policyname LIKE '%\_rewrap%' THEN roles <> ARRAY['custody_rewrap'::name]
    WHEN policyname IN ('encryption_vaults_own_row', 'users_own_row') THEN roles <> ARRAY['public'::name]
    WHEN policyname = 'encryption_vault_audit_own_row'
        THEN NOT 'custody_app' = ANY (roles) OR roles && ARRAY['public'::name, 'custody_rewrap']
    -- The function's owner reads by it; without the policy it would see no rows to prove a KEK by.
    WHEN policyname = 'encryption_vaults_kek_sample'
        THEN EXISTS (SELECT 1 FROM functions WHERE name = 'custody_sample_wraps' AND roles <> ARRAY[owner])
    ELSE false
END
UNION ALL
SELECT 'schema', format('the constraint %s is missing; run sql/migrations/0003_create_vaults.sql again by psql', wanted.name)
FROM unnest(ARRAY['encryption_vaults_has_wrap', 'encryption_vaults_wrap_iv_pair',
    'encryption_vaults_zk_consistency']) AS wanted (name), relations
WHERE relations.name = 'encryption_vaults'
    AND NOT EXISTS (
        SELECT 1 FROM pg_constraint
        WHERE conrelid = relations.oid AND conname = wanted.name AND contype = 'c' AND convalidated
    )
UNION ALL
SELECT 'schema', format('the trigger %s is missing or disabled; run sql/migrations again by psql', wanted.trigger)
FROM (VALUES ('encryption_vaults', 'encryption_vaults_row_version'),
             ('encryption_vault_audit', 'encryption_vault_audit_deadline')) AS wanted (tablename, trigger)
JOIN relations ON relations.name = wanted.tablename
WHERE NOT EXISTS (
    SELECT 1 FROM pg_trigger
    WHERE tgrelid = relations.oid AND tgname = wanted.trigger AND tgenabled IN ('O', 'A')
)
UNION ALL
SELECT 'roles', format('the role %s may %s auth.%s; run: REVOKE %s ON auth.%s FROM custody_app, custody_rewrap, PUBLIC, %I', me.rolname, forbidden.privilege, forbidden.tablename, forbidden.privilege, forbidden.tablename, me.rolname)
FROM me, (VALUES
    ('encryption_vault_audit', 'UPDATE'), ('encryption_vault_audit', 'DELETE'), ('encryption_vault_audit', 'TRUNCATE'),
    ('encryption_vaults', 'DELETE'), ('encryption_vaults', 'TRUNCATE'),
    ('encryption_keks', 'UPDATE'), ('encryption_keks', 'DELETE'), ('encryption_keks', 'TRUNCATE')
) AS forbidden (tablename, privilege)
JOIN relations ON relations.name = forbidden.tablename
WHERE NOT EXISTS (SELECT 1 FROM mine WHERE rolsuper)
    AND EXISTS (
        SELECT 1 FROM mine
        WHERE has_table_privilege(mine.oid, relations.oid, forbidden.privilege)
           OR (forbidden.privilege = 'UPDATE' AND has_any_column_privilege(mine.oid, relations.oid, 'UPDATE'))
    )
UNION ALL
SELECT 'roles', format('the role %s may not use the schema auth; run sql/migrations again by psql', me.rolname)
FROM me, pg_namespace
WHERE nspname = 'auth' AND NOT has_schema_privilege(current_user, pg_namespace.oid, 'USAGE')
    AND EXISTS (SELECT 1 FROM mine WHERE mine.rolname = $1)
UNION ALL
SELECT 'roles', format('the role %s may not %s auth.%s: a right of %s is missing, or not inherited; run sql/migrations again by psql', me.rolname, needed.privilege, needed.tablename, $1)
FROM me, (VALUES
    ('custody_app', 'users', 'SELECT'),
    ('custody_app', 'encryption_vaults', 'SELECT'),
    ('custody_app', 'encryption_vaults', 'INSERT'),
    ('custody_app', 'encryption_vaults', 'UPDATE'),
    ('custody_app', 'encryption_vault_audit', 'INSERT'),
    ('custody_app', 'encryption_keks', 'SELECT'),
    ('custody_app', 'encryption_keks', 'INSERT'),
    ('custody_rewrap', 'encryption_vaults', 'SELECT'),
    ('custody_rewrap', 'encryption_vaults', 'UPDATE'),
    ('custody_rewrap', 'encryption_vault_audit', 'INSERT'),
    ('custody_rewrap', 'encryption_keks', 'SELECT')
) AS needed (duty, tablename, privilege)
JOIN relations ON relations.name = needed.tablename
WHERE needed.duty = $1 AND NOT has_any_column_privilege(current_user, relations.oid, needed.privilege)
    AND EXISTS (SELECT 1 FROM mine WHERE mine.rolname = $1)
UNION ALL
SELECT 'roles', format('the role %s may not run auth.%s; run sql/migrations again by psql', me.rolname, functions.name)
FROM me, functions
WHERE $1 = 'custody_app' AND functions.name IN ('custody_add_user', 'custody_sample_wraps')
    AND NOT has_function_privilege(current_user, functions.oid, 'EXECUTE')
    AND EXISTS (SELECT 1 FROM mine WHERE mine.rolname = $1)
ORDER BY 1, 2
