-- What is unsafe in the schema, one row a problem: what is really in force, not what a migration
-- once meant to do. Names and definitions are compared, so a hollowed CHECK, trigger or function is
-- found, too. Tables are looked up in the catalog: to_regclass fails for a role that may not use the
-- schema. Text is compared as it is written under the settings of prepare_look.sql.
-- $1 whether auth.users is marked as our own, NULL: there is no such mark. $2 whether marks can be read
WITH
relations AS (
    SELECT oid, relname::text AS name, relrowsecurity AS hides,
           relrowsecurity AND relforcerowsecurity AS forced, relpersistence
    FROM pg_class WHERE relnamespace = to_regnamespace('auth') AND relkind IN ('r', 'p')
),
scoped AS (  -- the tables that must be under forced row-level security
    SELECT * FROM relations
    WHERE name IN ('encryption_vaults', 'encryption_vault_audit') OR (name = 'users' AND $1::boolean)
),
functions AS (
    SELECT oid, proname::text AS name, pg_get_userbyid(proowner) AS owner, md5(prosrc) AS body,
           prosecdef, proconfig
    FROM pg_proc WHERE pronamespace = to_regnamespace('auth')
),
checks (tablename, name, definition) AS (
    VALUES
    ('encryption_vaults', 'encryption_vaults_has_wrap', 'CHECK (((wrapped_mk IS NOT NULL) OR (recovery_wrapped_mk IS NOT NULL)))'),
    ('encryption_vaults', 'encryption_vaults_wrap_iv_pair', 'CHECK ((((wrapped_mk IS NULL) = (wrap_iv IS NULL)) AND ((recovery_wrapped_mk IS NULL) = (recovery_iv IS NULL))))'),
    ('encryption_vaults', 'encryption_vaults_zk_consistency', 'CHECK (((NOT zero_knowledge) OR ((wrapped_mk IS NULL) AND (recovery_wrapped_mk IS NOT NULL))))'),
    ('encryption_vaults', 'encryption_vaults_previous_pair', 'CHECK ((((previous_wrapped_mk IS NULL) = (previous_wrap_iv IS NULL)) AND ((previous_wrapped_mk IS NULL) = (previous_generation IS NULL))))'),
    ('encryption_vaults', 'encryption_vaults_previous_consistency', 'CHECK (((previous_wrapped_mk IS NULL) OR ((wrapped_mk IS NOT NULL) AND (previous_generation < generation))))'),
    ('encryption_keks', 'encryption_keks_state', 'CHECK ((state = ANY (ARRAY[''active''::text, ''decrypt-only''::text, ''retired''::text])))'),
    ('encryption_audit_prunes', 'encryption_audit_prunes_is_last', 'CHECK (is_last)'),
    ('encryption_data_keys', 'encryption_data_keys_id', 'CHECK ((id ~ ''^dk-[0-9a-f]{32}$''::text))'),
    ('encryption_data_key_wraps', 'encryption_data_key_wraps_format', 'CHECK ((format_version >= 3))'),
    ('encryption_keks', 'encryption_keks_retired_at', 'CHECK (((state = ''retired''::text) = (retired_at IS NOT NULL)))')
),
triggers (tablename, name, definition) AS (
    VALUES
    ('encryption_vaults', 'encryption_vaults_row_version', 'CREATE TRIGGER encryption_vaults_row_version BEFORE UPDATE ON auth.encryption_vaults FOR EACH ROW EXECUTE FUNCTION auth.custody_count_row_version()'),
    ('encryption_vaults', 'encryption_vaults_refuse_retired_kek', 'CREATE TRIGGER encryption_vaults_refuse_retired_kek BEFORE INSERT OR UPDATE ON auth.encryption_vaults FOR EACH ROW WHEN (((current_setting(''custody.reseals_rows''::text, true) IS DISTINCT FROM ''on''::text) OR (CURRENT_USER = ANY (ARRAY[''custody_app''::name, ''custody_rewrap''::name])))) EXECUTE FUNCTION auth.custody_refuse_retired_kek()'),
    ('encryption_vaults', 'encryption_vaults_refuse_ended_data_key', 'CREATE TRIGGER encryption_vaults_refuse_ended_data_key BEFORE INSERT OR UPDATE ON auth.encryption_vaults FOR EACH ROW WHEN (((current_setting(''custody.reseals_rows''::text, true) IS DISTINCT FROM ''on''::text) OR (CURRENT_USER = ANY (ARRAY[''custody_app''::name, ''custody_rewrap''::name])))) EXECUTE FUNCTION auth.custody_refuse_ended_data_key()'),
    ('encryption_vaults', 'encryption_vaults_seal_kept', 'CREATE TRIGGER encryption_vaults_seal_kept BEFORE UPDATE ON auth.encryption_vaults FOR EACH ROW EXECUTE FUNCTION auth.custody_keep_seal()'),
    ('encryption_keks', 'encryption_keks_keep', 'CREATE TRIGGER encryption_keks_keep BEFORE INSERT OR DELETE OR UPDATE ON auth.encryption_keks FOR EACH ROW EXECUTE FUNCTION auth.custody_keep_kek()'),
    ('encryption_keks', 'encryption_keks_keep_all', 'CREATE TRIGGER encryption_keks_keep_all BEFORE TRUNCATE ON auth.encryption_keks FOR EACH STATEMENT EXECUTE FUNCTION auth.custody_keep_kek()'),
    ('encryption_data_key_wraps', 'encryption_data_key_wraps_refuse_retired', 'CREATE TRIGGER encryption_data_key_wraps_refuse_retired BEFORE INSERT OR UPDATE ON auth.encryption_data_key_wraps FOR EACH ROW EXECUTE FUNCTION auth.custody_refuse_retired_data_key_wrap()'),
    ('encryption_vault_audit', 'encryption_vault_audit_deadline', 'CREATE CONSTRAINT TRIGGER encryption_vault_audit_deadline AFTER INSERT ON auth.encryption_vault_audit DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION auth.custody_hold_deadline()')
),
bodies (name, body, definer, config) AS (  -- md5 of the text between the dollar quotes
    VALUES
    ('custody_add_audit_checkpoint', '964a4dda70894bc09c6c1818e1cedad5', true, 'lock_timeout=2s'),
    ('custody_add_data_key', '2c14ec07447ba25db625a5cf325a1871', true, 'lock_timeout=2s'),
    ('custody_add_user', 'c4358090aa28e385134b6e4412064401', false, NULL),
    ('custody_announce_data_key', '09312ea4971c2ed3c60012d54587317a', true, 'lock_timeout=2s'),
    ('custody_audit_horizon', 'e428eceaa2384c9769542546af278cc3', true, NULL),
    ('custody_audit_leaves', 'a9547567498ccc0b991e828d9a3d6c04', true, NULL),
    ('custody_choose_rows', '30c80b37de160fb4c8c32dbf65ff11a7', true, NULL),
    ('custody_count_row_version', 'd2b05dec190ccf4edc579aea6053ce46', false, NULL),
    ('custody_count_unsealed', '7785748eaaae1fc7f679a8dd4f9642a4', true, NULL),
    ('custody_doubt_kek', '77cdf08a4e310cf91ccc6f38e35643ef', true, 'lock_timeout=2s'),
    ('custody_drop_data_key_wrap', '80aff85be06a10a469fc6b3204fd996c', true, 'lock_timeout=2s'),
    ('custody_end_data_key', '952bcb63b54b752a9267f9aeb8313971', true, 'lock_timeout=2s'),
    ('custody_find_due_erasures', 'b66c7e216f312fea68d21cf922702c34', true, NULL),
    ('custody_find_keks_in_use', 'f8a7d9c9077d59f5a590e74cd71759ab', true, NULL),
    ('custody_forget_kek', '8a10e0c84ab479983c225076311c48df', false, 'lock_timeout=2s'),
    ('custody_hold_deadline', '94e6cbe0c38b427c96a2dc145bc8e26a', false, NULL),
    ('custody_keep_kek', '702f8adc1ced913a41a49bcff50352e3', false, NULL),
    ('custody_keep_seal', 'ad35f1486d1c92c2297075b3fa849589', false, NULL),
    ('custody_list_rows', 'e2431d326df3ccacff5147b2672aa41c', true, NULL),
    ('custody_load_rows', '4a0e92272b32ba88b08f21c2e524cd2e', true, NULL),
    ('custody_load_sealed_before', '015485272f25600120914457d6f7eb19', true, 'enable_sort=off'),
    ('custody_load_states', 'dd54f237ba219751731f76963d80accf', true, NULL),
    ('custody_load_vaults', '46ceae37c33d2a3a74c5fe2fdcd2c7ac', false, NULL),
    ('custody_promote_data_key', '65b862fa5aa74104b04557820fc177bb', true, 'lock_timeout=2s'),
    ('custody_put_data_key_wrap', 'f48d86e648ceb17ca99a611c63ba224e', true, 'lock_timeout=2s'),
    ('custody_read_unsealed', '5ab686344664dd0c6e209f1f2de9f8ab', true, NULL),
    ('custody_record_events', '430c48756477540d846083555562213d', false, NULL),
    ('custody_refuse_ended_data_key', '5113bb81af2d331ff770d348cb67e1b3', false, 'row_security=off'),
    ('custody_refuse_retired_data_key_wrap', '6df8722cdf3a7e68a3d1afc3ce31dfe0', false, 'row_security=off'),
    ('custody_refuse_retired_kek', '2766ed7aff892629ebc7f4c5ebb4516e', false, 'row_security=off'),
    ('custody_refuse_retired_keks', 'e6620b054073f533e4859e92d2734939', false, 'row_security=off'),
    ('custody_register_kek', 'a504132629caf78d60425e11c931b086', true, 'lock_timeout=2s'),
    ('custody_reseal_kek', '8c8a5e2ecff6da2f6881d8110c1e1be8', true, 'lock_timeout=2s'),
    ('custody_reseal_rows', 'af7e2d81c2c8dc2f15343cbe5718fd92', true, NULL),
    ('custody_retire_kek', 'fe3ae911a291898e856fd32cee76bce5', true, 'lock_timeout=1s'),
    ('custody_sample_rows', '2f12833734bbdc17737c78f5f5815dc5', true, NULL),
    ('custody_seal_rows', '28272b16476c7b51d6517420842a21a8', true, NULL)
),
policies (tablename, policyname, cmd, qual, with_check, permissive) AS (
    SELECT 'encryption_vaults', 'encryption_vaults_own_row', 'ALL', own.row, own.row, 'PERMISSIVE'
    FROM (VALUES ('(user_id = NULLIF(current_setting(''app.current_user_id''::text, true), ''''::text))')) AS own (row)
    UNION ALL
    SELECT 'encryption_vault_audit', 'encryption_vault_audit_own_row', 'ALL', own.row, own.row, 'PERMISSIVE'
    FROM (VALUES ('(user_id = NULLIF(current_setting(''app.current_user_id''::text, true), ''''::text))')) AS own (row)
    UNION ALL
    SELECT 'users', 'users_own_row', 'ALL', own.row, own.row, 'PERMISSIVE'
    FROM (VALUES ('(id = NULLIF(current_setting(''app.current_user_id''::text, true), ''''::text))')) AS own (row)
    UNION ALL VALUES
    ('encryption_vaults', 'encryption_vaults_rewrap_read', 'SELECT', 'true', NULL, 'PERMISSIVE'),
    ('encryption_vaults', 'encryption_vaults_rewrap_write', 'UPDATE', '(wrapped_mk IS NOT NULL)', '(wrapped_mk IS NOT NULL)', 'PERMISSIVE'),
    ('encryption_vaults', 'encryption_vaults_kek_sample', 'SELECT',
     '((kek_id = NULLIF(current_setting(''custody.sampled_kek_id''::text, true), ''''::text)) OR (current_setting(''custody.scans_kek_ids''::text, true) = ''on''::text) OR ((seal IS NOT NULL) AND (current_setting(''custody.looks_for_seals''::text, true) = ''on''::text)) OR ((seal IS NULL) AND (current_setting(''custody.counts_unsealed''::text, true) = ''on''::text)))', NULL, 'PERMISSIVE'),
    ('encryption_vaults', 'encryption_vaults_bring_over', 'ALL', '(current_setting(''custody.brings_over''::text, true) = ''on''::text)',
     '((current_setting(''custody.brings_over''::text, true) = ''on''::text) AND (seal IS NOT NULL))', 'PERMISSIVE'),
    ('encryption_vaults', 'encryption_vaults_app_inserts', 'INSERT', NULL,
     '((seal IS NOT NULL) AND ((wrapped_mk IS NULL) OR (format_version >= 3)))', 'RESTRICTIVE'),
    ('encryption_vaults', 'encryption_vaults_app_updates', 'UPDATE', 'true',
     '((seal IS NOT NULL) AND ((wrapped_mk IS NULL) OR (format_version >= 3)))', 'RESTRICTIVE'),
    ('encryption_vault_audit', 'encryption_vault_audit_rewrap', 'INSERT', NULL,
     '(action = ANY (ARRAY[''rewrap_run''::text, ''rewrap_failed''::text]))', 'PERMISSIVE'),
    ('encryption_vault_audit', 'encryption_vault_audit_all', 'SELECT',
     '(( SELECT current_setting(''custody.reads_audit''::text, true) AS current_setting) = ''on''::text)', NULL, 'PERMISSIVE'),
    ('encryption_vault_audit', 'encryption_vault_audit_prune', 'DELETE',
     '(( SELECT current_setting(''custody.prunes_audit''::text, true) AS current_setting) = ''on''::text)', NULL, 'PERMISSIVE'),
    ('encryption_vault_audit', 'encryption_vault_audit_prune_row', 'INSERT', NULL,
     '((( SELECT current_setting(''custody.prunes_audit''::text, true) AS current_setting) = ''on''::text) AND (action = ''prune''::text) AND (user_id = ''''::text))', 'PERMISSIVE'),
    ('encryption_vault_audit', 'encryption_vault_audit_redact', 'UPDATE',
     '((( SELECT current_setting(''custody.redacts_audit''::text, true) AS current_setting) = ''on''::text) AND (seal IS NOT NULL))',
     '((( SELECT current_setting(''custody.redacts_audit''::text, true) AS current_setting) = ''on''::text) AND (ip_address IS NULL) AND (user_agent IS NULL))', 'PERMISSIVE')
),
found AS (
    SELECT tablename::text, policyname::text, cmd, qual, with_check, roles, permissive
    FROM pg_policies
    WHERE schemaname = 'auth' AND tablename IN (SELECT name FROM scoped)
)
SELECT format('the encoding of the database is %s, and user ids and user agents need UTF8; move it with pg_dump and pg_restore into one that is made by: CREATE DATABASE %I ENCODING ''UTF8'' TEMPLATE template0', pg_encoding_to_char(encoding), datname || '_utf8') AS problem
FROM pg_database WHERE datname = current_database() AND pg_encoding_to_char(encoding) <> 'UTF8'
UNION ALL
SELECT format('auth.%s is missing; run: custody migrate, or sql/migrations again by psql', name)
FROM unnest(ARRAY['users', 'encryption_vaults', 'encryption_vault_audit', 'encryption_audit_checkpoints', 'encryption_audit_prunes', 'encryption_keks', 'encryption_data_keys', 'encryption_data_key_wraps', 'rewrap_runs', 'rewrap_claims', 'custody_instances', 'custody_marks']) AS wanted (name)
WHERE wanted.name NOT IN (SELECT relations.name FROM relations)
UNION ALL
SELECT format('the function auth.%s is missing or was changed; run: custody migrate, or sql/migrations again by psql', bodies.name)
FROM bodies LEFT JOIN functions USING (name)
WHERE (functions.body, functions.prosecdef, functions.proconfig)
    IS DISTINCT FROM (bodies.body, bodies.definer,
                      array_remove(ARRAY['search_path=pg_catalog, pg_temp', bodies.config], NULL))
UNION ALL
SELECT format('auth.%s has no column %s; run: custody migrate, or sql/migrations again by psql', relations.name, columns.name)
FROM (VALUES
    ('encryption_vaults', ARRAY['user_id', 'wrapped_mk', 'wrap_iv', 'format_version', 'kek_id',
     'recovery_wrapped_mk', 'recovery_iv', 'recovery_format_version', 'recovery_set_at',
     'zero_knowledge', 'created_at', 'rotated_at', 'generation', 'key_check', 'row_version',
     'rewrapped_at', 'quarantined_at', 'quarantine_reason', 'seal', 'seal_serial',
     'previous_wrapped_mk', 'previous_wrap_iv', 'previous_generation']),
    ('encryption_vault_audit', ARRAY['id', 'user_id', 'action', 'ip_address', 'user_agent',
     'context', 'status', 'created_at', 'number', 'state', 'seal']),
    ('encryption_audit_checkpoints', ARRAY['number', 'size', 'last_row', 'hashes', 'note', 'made_at']),
    ('encryption_audit_prunes', ARRAY['is_last', 'checkpoint', 'hashes', 'note', 'made_at']),
    ('encryption_keks', ARRAY['kek_id', 'fingerprint', 'recorded_at', 'backend', 'locator', 'state',
     'activated_at', 'retired_at', 'retirement', 'seal']),
    ('encryption_data_keys', ARRAY['id', 'seal', 'created_at', 'lost_at', 'ended', 'ended_words']),
    ('encryption_data_key_wraps', ARRAY['data_key_id', 'kek_id', 'wrapped_key', 'wrap_iv',
     'format_version', 'created_at']),
    ('rewrap_runs', ARRAY['id', 'target', 'everything', 'started_by', 'sources', 'state', 'total',
     'done', 'moved', 'failed', 'cursor_kek_id', 'cursor_format', 'cursor_user_id', 'started_at',
     'heartbeat_at', 'ended_at', 'data_key']),
    ('rewrap_claims', ARRAY['id', 'run_id', 'owner', 'kek_id', 'format', 'above', 'up_to',
     'heartbeat_at']),
    ('custody_instances', ARRAY['id', 'host', 'process', 'writes_uri', 'writes_kek_id',
     'active_kek_id', 'reads', 'seals_with', 'started_at', 'heartbeat_at']),
    ('custody_marks', ARRAY['table_name', 'ours']),
    ('users', ARRAY['id'])
) AS wanted (tablename, names)
JOIN relations ON relations.name = wanted.tablename, unnest(wanted.names) AS columns (name)
WHERE NOT EXISTS (
    SELECT 1 FROM pg_attribute
    WHERE attrelid = relations.oid AND attname = columns.name AND NOT attisdropped
)
UNION ALL
SELECT 'nothing marks auth.users as custody''s own or as somebody else''s, so that new users would be refused; run sql/migrations again by psql'
FROM relations WHERE name = 'custody_marks' AND NOT hides AND $2::boolean AND $1::boolean IS NULL
UNION ALL
SELECT 'auth.users has custody''s own policy and is marked as somebody else''s, so that new users are refused; run: UPDATE auth.custody_marks SET ours = true WHERE table_name = ''users'''
FROM pg_policies
WHERE schemaname = 'auth' AND tablename = 'users' AND policyname = 'users_own_row' AND $1::boolean IS FALSE
UNION ALL
SELECT format('row-level security is not enabled and forced on auth.%s; run: ALTER TABLE auth.%s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name, name)
FROM scoped WHERE NOT forced
UNION ALL
SELECT 'row-level security hides the KEKs of auth.encryption_keks from who must see that they are retired; run: ALTER TABLE auth.encryption_keks DISABLE ROW LEVEL SECURITY'
FROM relations WHERE name = 'encryption_keks' AND hides
UNION ALL
SELECT format('row-level security hides the data keys of auth.%s, without which no row is believed; run: ALTER TABLE auth.%s DISABLE ROW LEVEL SECURITY', name, name)
FROM relations WHERE name IN ('encryption_data_keys', 'encryption_data_key_wraps') AND hides
UNION ALL
SELECT 'row-level security hides what auth.custody_marks says; run: ALTER TABLE auth.custody_marks DISABLE ROW LEVEL SECURITY'
FROM relations WHERE name = 'custody_marks' AND hides
UNION ALL
SELECT format('the policy %s is missing or was changed; run sql/migrations again by psql', policies.policyname)
FROM policies JOIN scoped ON scoped.name = policies.tablename
LEFT JOIN found USING (tablename, policyname)
WHERE found.policyname IS NULL
    OR (found.cmd, found.qual, found.with_check, found.permissive)
        IS DISTINCT FROM (policies.cmd, policies.qual, policies.with_check, policies.permissive)
UNION ALL
SELECT format('the policy %s on auth.%s is not ours and opens rows; run: DROP POLICY %I ON auth.%I', found.policyname, found.tablename, found.policyname, found.tablename)
FROM found LEFT JOIN policies USING (tablename, policyname)
WHERE policies.policyname IS NULL AND found.permissive = 'PERMISSIVE'
UNION ALL
SELECT format('the policy %s is given to another role than its own; run sql/migrations again by psql, as the owner', policyname)
FROM found
WHERE CASE
    WHEN policyname LIKE '%\_rewrap%' THEN roles <> ARRAY['custody_rewrap'::name]
    WHEN policyname LIKE '%\_app\_%' THEN roles <> ARRAY['custody_app'::name]
    WHEN policyname IN ('encryption_vaults_own_row', 'users_own_row') THEN roles <> ARRAY['public'::name]
    WHEN policyname = 'encryption_vault_audit_own_row'
        THEN NOT 'custody_app' = ANY (roles) OR roles && ARRAY['public'::name, 'custody_rewrap']
    -- The functions' owner reads and writes by them; without them it would see no rows, to prove a KEK
    -- by, to keep it from being retired, or to seal.
    WHEN policyname = 'encryption_vault_audit_all'
        THEN EXISTS (SELECT 1 FROM functions JOIN bodies USING (name) WHERE definer AND array_remove(roles, 'custody_audit'::name) <> ARRAY[owner])
    WHEN policyname IN ('encryption_vaults_kek_sample', 'encryption_vaults_bring_over',
                        'encryption_vault_audit_prune', 'encryption_vault_audit_prune_row',
                        'encryption_vault_audit_redact')
        THEN EXISTS (SELECT 1 FROM functions JOIN bodies USING (name) WHERE definer AND roles <> ARRAY[owner])
    ELSE false
END
UNION ALL
SELECT format('the constraint %s is missing or was changed; run all of sql/migrations again by psql', checks.name)
FROM relations JOIN checks ON checks.tablename = relations.name
WHERE NOT EXISTS (
        SELECT 1 FROM pg_constraint
        WHERE conrelid = relations.oid AND conname = checks.name AND contype = 'c' AND convalidated
            AND pg_get_constraintdef(oid) = checks.definition
    )
UNION ALL
SELECT 'auth.encryption_vaults has no foreign key to auth.users that cascades: a deleted account would leave its key; run: ALTER TABLE auth.encryption_vaults ADD FOREIGN KEY (user_id) REFERENCES auth.users (id) ON DELETE CASCADE'
FROM relations AS vaults, relations AS users
WHERE vaults.name = 'encryption_vaults' AND users.name = 'users'
    AND NOT EXISTS (
        SELECT 1 FROM pg_constraint
        WHERE conrelid = vaults.oid AND confrelid = users.oid AND contype = 'f' AND confdeltype = 'c'
    )
UNION ALL
SELECT format('the foreign key %s on auth.encryption_vault_audit would take audit rows along with an account; run: ALTER TABLE auth.encryption_vault_audit DROP CONSTRAINT %I', conname, conname)
FROM pg_constraint JOIN relations ON relations.oid = conrelid
WHERE relations.name = 'encryption_vault_audit' AND contype = 'f'
UNION ALL
SELECT 'the index rewrap_runs_running is missing or was changed: two re-wrap runs at once would do rows twice; run: custody migrate, or sql/migrations again by psql'
FROM relations WHERE name = 'rewrap_runs'
    AND NOT EXISTS (
        SELECT 1 FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE indrelid = relations.oid AND relname = 'rewrap_runs_running' AND indisvalid
            AND pg_get_indexdef(indexrelid) = 'CREATE UNIQUE INDEX rewrap_runs_running ON auth.rewrap_runs USING btree ((true)) WHERE (state = ''running''::text)'
    )
UNION ALL
SELECT 'the column number of auth.encryption_vault_audit is not drawn from a sequence of its own without a cache, or not unique: rows would come below a checkpoint; run: ALTER SEQUENCE auth.encryption_vault_audit_number_seq CACHE 1 NO CYCLE, then sql/migrations again by psql'
FROM relations WHERE name = 'encryption_vault_audit'
    AND EXISTS (SELECT 1 FROM pg_attribute
                WHERE attrelid = relations.oid AND attname = 'number' AND NOT attisdropped)
    AND NOT (EXISTS (SELECT 1 FROM pg_attribute
                     WHERE attrelid = relations.oid AND attname = 'number' AND attidentity = 'a')
             AND EXISTS (SELECT 1 FROM pg_sequence JOIN pg_depend ON objid = seqrelid AND deptype = 'i'
                         WHERE refobjid = relations.oid AND seqcache = 1 AND seqincrement = 1 AND NOT seqcycle)
             AND EXISTS (SELECT 1 FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
                         WHERE indrelid = relations.oid AND relname = 'encryption_vault_audit_number_idx'
                             AND indisvalid AND indisunique))
UNION ALL
SELECT 'the index encryption_vaults_unsealed_idx is missing or was changed: each look for rows that are not sealed would read all of them; run: custody migrate, or sql/migrations again by psql'
FROM relations WHERE name = 'encryption_vaults'
    AND EXISTS (SELECT 1 FROM pg_attribute
                WHERE attrelid = relations.oid AND attname = 'seal' AND NOT attisdropped)
    AND NOT EXISTS (
        SELECT 1 FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE indrelid = relations.oid AND relname = 'encryption_vaults_unsealed_idx' AND indisvalid
            -- ONLY: of a table in partitions.
            AND replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') = 'CREATE INDEX encryption_vaults_unsealed_idx ON auth.encryption_vaults USING btree (user_id) WHERE (seal IS NULL)'
    )
UNION ALL
SELECT format('the trigger %s is missing, disabled or was changed; run sql/migrations again by psql', triggers.name)
FROM triggers JOIN relations ON relations.name = triggers.tablename
WHERE NOT EXISTS (
    SELECT 1 FROM pg_trigger
    WHERE tgrelid = relations.oid AND tgname = triggers.name AND tgenabled IN ('O', 'A')
        AND pg_get_triggerdef(oid) = triggers.definition
)
UNION ALL
SELECT format('the trigger %s on auth.%s is not ours and may swallow rows; run: DROP TRIGGER %I ON auth.%I', tgname, relations.name, tgname, relations.name)
FROM pg_trigger JOIN relations ON relations.oid = tgrelid
WHERE (relations.name LIKE 'encryption\_%' OR relations.name = 'custody_marks') AND NOT tgisinternal
    AND tgname NOT IN (SELECT triggers.name FROM triggers)
UNION ALL
SELECT format('the rule %s on auth.%s is not ours and may swallow rows; run: DROP RULE %I ON auth.%I', rulename, relations.name, rulename, relations.name)
FROM pg_rewrite JOIN relations ON relations.oid = ev_class
WHERE relations.name LIKE 'encryption\_%' OR relations.name = 'custody_marks'
UNION ALL
SELECT format('auth.%s would be emptied by a crash; run: ALTER TABLE auth.%s SET LOGGED', name, name)
FROM relations
WHERE (name LIKE 'encryption\_%' OR name IN ('rewrap_runs', 'rewrap_claims', 'custody_instances', 'custody_marks'))
    AND relpersistence <> 'p'
ORDER BY 1
