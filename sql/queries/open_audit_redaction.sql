-- Makes a transaction of the owner one that reads the audit, and takes clients out of its rows.
SELECT set_config('custody.reads_audit', 'on', true), set_config('custody.redacts_audit', 'on', true)
