-- The hashes of a page of audit rows, one behind the other.
-- $1 above this number, $2 up to this one, $3 how many numbers at most
SELECT last_row, count, leaves FROM auth.custody_audit_leaves($1, $2, $3)
