-- Adds a checkpoint, unless somebody else has added one meanwhile. Returns whether it was.
-- $1 number of the one before, $2 size, $3 number of the last row, $4 hashes, $5 note
SELECT auth.custody_add_audit_checkpoint($1, $2, $3, $4, $5)
