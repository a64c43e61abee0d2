-- For which standbys a COMMIT waits, and whether one is there that may be such.
SELECT current_setting('synchronous_standby_names') AS names,
       current_setting('synchronous_standby_names') <> ''
           AND current_setting('synchronous_commit') <> 'local' AS waits,
       -- What a standby is to the server, only pg_monitor sees: to others it is NULL.
       (SELECT count(*) FROM pg_stat_get_wal_senders()
        WHERE sync_state IS NULL OR sync_state <> 'async') AS standbys
