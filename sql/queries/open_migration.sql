-- What a migration relies on, to the end of its transaction and whatever the owner role, the database or
-- the URL sets. $1 the longest wait for a lock (milliseconds, as text)
SELECT set_config(pg_settings.name, wanted.value, true)
FROM pg_settings JOIN (VALUES
    ('lock_timeout', $1),
    ('statement_timeout', '0'),
    ('transaction_timeout', '0'),  -- PostgreSQL 17 and newer
    ('idle_in_transaction_session_timeout', '0'),
    ('search_path', 'pg_catalog, pg_temp'),
    ('quote_all_identifiers', 'off'),
    ('row_security', 'on'),
    ('synchronous_commit', 'on'),
    ('standard_conforming_strings', 'on')
) AS wanted (name, value) USING (name)
