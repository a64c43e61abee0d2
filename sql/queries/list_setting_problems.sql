-- Settings that the role, the database or the URL brings and under which requests can't be served, or
-- promises do not hold, one row a problem with its cure. What the look itself sets is checked by what
-- the session began with.
WITH
wrong (name, value, why) AS (
    SELECT name, setting, 'it switches off triggers and foreign keys: deadlines are not held, and retired KEKs are written'
    FROM pg_settings WHERE name = 'session_replication_role' AND setting = 'replica'
    UNION ALL
    SELECT name, setting, 'every statement that row-level security would narrow fails'
    FROM pg_settings WHERE name = 'row_security' AND setting = 'off'
    UNION ALL
    -- A server that is read-only as a whole is being failed over: that is no matter of this role.
    SELECT name, setting, 'nothing can be written'
    FROM pg_settings WHERE name = 'default_transaction_read_only' AND setting = 'on'
        AND source IN ('database', 'user', 'database user', 'global', 'client')
    UNION ALL
    SELECT name, reset_val || unit, 'it ends what a request needs'
    FROM pg_settings
    WHERE name IN ('statement_timeout', 'transaction_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout')
        AND reset_val::integer BETWEEN 1 AND 99
),
me AS (
    SELECT oid AS role, (SELECT oid FROM pg_database WHERE datname = current_database()) AS database
    FROM pg_roles WHERE rolname = session_user
),
places AS (  -- the one that wins first
    SELECT split_part(entry, '=', 1) AS name,
           array_agg(CASE
               WHEN setrole = 0 AND setdatabase = 0 THEN 'ALTER ROLE ALL RESET '
               WHEN setrole = 0 THEN format('ALTER DATABASE %I RESET ', current_database())
               WHEN setdatabase = 0 THEN format('ALTER ROLE %I RESET ', session_user)
               ELSE format('ALTER ROLE %I IN DATABASE %I RESET ', session_user, current_database())
           END ORDER BY setrole = 0, setdatabase = 0) AS cures
    FROM pg_db_role_setting, unnest(setconfig) AS entry, me
    WHERE setrole IN (0, me.role) AND setdatabase IN (0, me.database)
    GROUP BY 1
)
SELECT format('%s is %s for the role %s: %s; %s', name, value, session_user, why,
              coalesce('run: ' || CASE name WHEN 'default_transaction_read_only' THEN format('BEGIN READ WRITE; %s%s; COMMIT', cures[1], name)
                                            ELSE cures[1] || name END,
                       'take it out of the URL or the server''s own configuration')) AS problem
FROM wrong LEFT JOIN places USING (name)
ORDER BY 1
