-- Whoever begins or joins a run does so alone, to the end of the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('custody rewrap runs', 0))
