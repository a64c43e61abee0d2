-- Takes the advisory lock of that number, to the end of the transaction, unless another session in
-- this database has it. Returns whether it was taken.
SELECT pg_try_advisory_xact_lock($1)
