-- Removes a predecessor that nothing carries; returns ended, or why not.
-- $1 id, $2 its seal, $3 id and $4 seal of the current one, $5 what that one says of it to the audit
SELECT auth.custody_end_data_key($1, $2, $3, $4, $5)
