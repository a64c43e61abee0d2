-- Audit rows of some actions, each written in the scope of its own user; all or none.
-- $1 deadline on the database's clock (seconds since 1970), $2 rows: a JSON array of objects
SELECT auth.custody_record_events($1, $2)
