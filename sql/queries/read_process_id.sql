-- The server's process behind this session.
SELECT pg_backend_pid()
