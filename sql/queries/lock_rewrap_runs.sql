-- An advisory lock: one process at a time begins or joins a run, to the end of the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('custody rewrap runs', 0))
