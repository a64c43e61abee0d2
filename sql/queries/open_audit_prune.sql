-- Makes a transaction of the owner one that reads and prunes the audit, of all users.
SELECT set_config('custody.reads_audit', 'on', true), set_config('custody.prunes_audit', 'on', true)
