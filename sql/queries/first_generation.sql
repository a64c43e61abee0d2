-- The generation of a vault that is made now: the database's time in milliseconds, so that a vault
-- made after an erasure has a later one than the erased: a device that knows the old one is stale.
SELECT (extract(epoch FROM now()) * 1000)::bigint
