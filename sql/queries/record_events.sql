-- Audit rows of some actions, each written in the scope of its own user.
-- $1 deadline on the database's clock (seconds since 1970); then one list for each column:
-- $2 ids, $3 user ids, $4 actions, $5 ip addresses, $6 user agents, $7 contexts, $8 statuses
SELECT auth.custody_record_events($1, $2, $3, $4, $5, $6, $7, $8)
