-- Which server this is a copy of, and on which timeline it writes; nothing on a standby, which writes on none.
SELECT CASE WHEN pg_is_in_recovery() THEN '' ELSE
  (SELECT system_identifier FROM pg_control_system()) || ' '
  || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END
