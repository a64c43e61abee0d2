-- What is unwise in the database and no reason not to serve, one row each, with its cure; and, as no
-- problem, what an operator should know.
WITH
waits AS (
    SELECT format('COMMIT waits for standbys (synchronous_standby_names = %s)', current_setting('synchronous_standby_names')) AS said,
           -- What a standby is to the server, only pg_monitor sees: to others it is NULL.
           (SELECT count(*) FROM pg_stat_get_wal_senders() WHERE sync_state IS NULL OR sync_state <> 'async') AS standbys
    WHERE current_setting('synchronous_standby_names') <> '' AND current_setting('synchronous_commit') <> 'local'
),
superusers AS (
    SELECT pg_get_userbyid(proowner) AS owner, min(proname::text) AS first, count(*) AS number
    FROM pg_proc JOIN pg_roles ON pg_roles.oid = proowner
    WHERE pronamespace = to_regnamespace('auth') AND prosecdef AND rolsuper
    GROUP BY proowner
)
SELECT 'replication' AS part, standbys = 0 AS is_problem,
       said || CASE standbys WHEN 0 THEN ', and none is connected: no key leaves, and changes are answered 503 OUTCOME_UNKNOWN; bring one back, or take it out of synchronous_standby_names' ELSE '' END AS message
FROM waits
UNION ALL
SELECT 'owner', true,
       format('%s functions that act with the rights of their owner (first: auth.%s) belong to %s, a superuser; give the schema to a role that is none: docs/self-hosting.md, Another owner', number, first, owner)
FROM superusers
