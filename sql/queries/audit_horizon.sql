-- The highest number that an audit row has now or will soon have, and who writes to the audit now.
SELECT number, writers FROM auth.custody_audit_horizon()
