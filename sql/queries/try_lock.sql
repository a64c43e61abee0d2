-- Whether nobody else in this database holds the lock of that number; held to the transaction's end.
SELECT pg_try_advisory_xact_lock($1)
