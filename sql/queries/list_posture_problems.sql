-- What is unsafe in the schema or in the role that asks, one row a problem. Nothing comes back
-- when the promises of row-level security and of the append-only audit hold for this role.
-- $1 the duty of the role: custody_app or custody_rewrap
WITH
me AS (
    SELECT oid, rolname FROM pg_roles WHERE rolname = current_user
),
mine AS (  -- every role whose rights this one has or can take on
    SELECT role.* FROM pg_roles AS role WHERE pg_has_role(current_user, role.oid, 'MEMBER')
),
tables (name) AS (
    VALUES ('encryption_vaults'), ('encryption_vault_audit'), ('encryption_keks')
),
scoped AS (  -- the tables that must be under forced row-level security
    SELECT to_regclass('auth.' || name)::oid AS oid, 'auth.' || name AS name
    FROM tables WHERE name <> 'encryption_keks'
    UNION ALL
    SELECT to_regclass('auth.users')::oid, 'auth.users'
    WHERE obj_description(to_regclass('auth.users')::oid, 'pg_class') LIKE 'custody:%'
),
policies (tablename, policyname, cmd, qual, with_check) AS (
    SELECT 'encryption_vaults', 'encryption_vaults_own_row', 'ALL', own.row, own.row
    FROM (VALUES ('(user_id = NULLIF(current_setting(''app.current_user_id''::text, true), ''''::text))')) AS own (row)
    UNION ALL
    SELECT 'encryption_vault_audit', 'encryption_vault_audit_own_row', 'ALL', own.row, own.row
    FROM (VALUES ('(user_id = NULLIF(current_setting(''app.current_user_id''::text, true), ''''::text))')) AS own (row)
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
    WHERE schemaname = 'auth' AND tablename IN ('encryption_vaults', 'encryption_vault_audit')
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
    SELECT relowner AS owner, oid::regclass::text AS name FROM pg_class
    WHERE relnamespace = to_regnamespace('auth') AND relkind IN ('r', 'p', 'v', 'm', 'S')
    UNION ALL
    SELECT nspowner, 'the schema auth' FROM pg_namespace WHERE nspname = 'auth'
    UNION ALL
    SELECT datdba, 'the database' FROM pg_database WHERE datname = current_database()
    UNION ALL
    SELECT proowner, oid::regprocedure::text FROM pg_proc WHERE pronamespace = to_regnamespace('auth')
) AS owned
WHERE owned.owner IN (SELECT oid FROM mine)
    AND NOT EXISTS (SELECT 1 FROM mine WHERE rolsuper)
UNION ALL
SELECT 'schema', format('auth.%s is missing; run: custody migrate', name)
FROM tables WHERE to_regclass('auth.' || name) IS NULL
UNION ALL
SELECT 'schema', 'auth.users is missing; run: custody migrate'
WHERE to_regclass('auth.users') IS NULL
UNION ALL
SELECT 'schema', format('auth.encryption_vaults has no column %s; run: custody migrate', name)
FROM unnest(ARRAY['recovery_wrapped_mk', 'recovery_iv', 'recovery_format_version', 'recovery_set_at',
    'zero_knowledge', 'generation', 'key_check', 'row_version', 'rewrapped_at', 'quarantined_at',
    'quarantine_reason']) AS name
WHERE to_regclass('auth.encryption_vaults') IS NOT NULL
    AND NOT EXISTS (
        SELECT 1 FROM pg_attribute
        WHERE attrelid = to_regclass('auth.encryption_vaults') AND attname = name AND NOT attisdropped
    )
UNION ALL
SELECT 'schema', format('row-level security is not enabled and forced on %s; run: ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', scoped.name, scoped.name)
FROM scoped JOIN pg_class ON pg_class.oid = scoped.oid
WHERE NOT (relrowsecurity AND relforcerowsecurity)
UNION ALL
SELECT 'schema', format('the policy %s is missing or was changed; run sql/migrations again by psql', policies.policyname)
FROM policies LEFT JOIN found USING (tablename, policyname)
WHERE to_regclass('auth.' || policies.tablename) IS NOT NULL
    AND (found.policyname IS NULL OR found.permissive <> 'PERMISSIVE'
         OR (found.cmd, found.qual, found.with_check) IS DISTINCT FROM (policies.cmd, policies.qual, policies.with_check))
UNION ALL
SELECT 'schema', format('the policy %s on auth.%s is not ours and opens rows; run: DROP POLICY %I ON auth.%I', found.policyname, found.tablename, found.policyname, found.tablename)
FROM found LEFT JOIN policies USING (tablename, policyname)
WHERE policies.policyname IS NULL AND found.permissive = 'PERMISSIVE'
UNION ALL
SELECT 'schema', format('the policy %s is given to another role than its own; run sql/migrations again by psql', policyname)
FROM found
WHERE (policyname LIKE '%\_rewrap%' AND roles <> ARRAY['custody_rewrap'::name])
   OR (policyname = 'encryption_vaults_kek_sample' AND roles && ARRAY['public'::name, 'custody_app', 'custody_rewrap'])
UNION ALL
SELECT 'schema', format('the constraint %s is missing; run sql/migrations/0003_create_vaults.sql again by psql', name)
FROM unnest(ARRAY['encryption_vaults_has_wrap', 'encryption_vaults_wrap_iv_pair',
    'encryption_vaults_zk_consistency']) AS name
WHERE to_regclass('auth.encryption_vaults') IS NOT NULL
    AND NOT EXISTS (
        SELECT 1 FROM pg_constraint
        WHERE conrelid = to_regclass('auth.encryption_vaults') AND conname = name AND contype = 'c' AND convalidated
    )
UNION ALL
SELECT 'schema', format('the trigger %s is missing or disabled; run sql/migrations again by psql', wanted.trigger)
FROM (VALUES ('encryption_vaults', 'encryption_vaults_row_version'),
             ('encryption_vault_audit', 'encryption_vault_audit_deadline')) AS wanted (tablename, trigger)
WHERE to_regclass('auth.' || wanted.tablename) IS NOT NULL
    AND NOT EXISTS (
        SELECT 1 FROM pg_trigger
        WHERE tgrelid = to_regclass('auth.' || wanted.tablename) AND tgname = wanted.trigger AND tgenabled IN ('O', 'A')
    )
UNION ALL
SELECT 'roles', format('the role %s may %s auth.%s; run: REVOKE %s ON auth.%s FROM custody_app, custody_rewrap, PUBLIC, %I', me.rolname, forbidden.privilege, forbidden.tablename, forbidden.privilege, forbidden.tablename, me.rolname)
FROM me, (VALUES
    ('encryption_vault_audit', 'UPDATE'), ('encryption_vault_audit', 'DELETE'), ('encryption_vault_audit', 'TRUNCATE'),
    ('encryption_vaults', 'DELETE'), ('encryption_vaults', 'TRUNCATE'),
    ('encryption_keks', 'UPDATE'), ('encryption_keks', 'DELETE'), ('encryption_keks', 'TRUNCATE')
) AS forbidden (tablename, privilege)
WHERE NOT EXISTS (SELECT 1 FROM mine WHERE rolsuper)
    AND to_regclass('auth.' || forbidden.tablename) IS NOT NULL
    AND (has_table_privilege(current_user, to_regclass('auth.' || forbidden.tablename), forbidden.privilege)
         OR (forbidden.privilege = 'UPDATE'
             AND has_any_column_privilege(current_user, to_regclass('auth.' || forbidden.tablename), 'UPDATE')))
ORDER BY 1, 2
