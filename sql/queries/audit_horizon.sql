-- The highest number that an audit row has now or will soon have, and who writes to the audit now. A standby
-- has neither: its sequence is ahead of the primary's, and its locks are not those of who writes.
SELECT number, writers, pg_is_in_recovery() AS is_standby FROM auth.custody_audit_horizon()
