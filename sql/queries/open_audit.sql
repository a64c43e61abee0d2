-- Makes a transaction one that reads the audit, of all users, and changes nothing.
SELECT set_config('transaction_read_only', 'on', true), set_config('custody.reads_audit', 'on', true)
