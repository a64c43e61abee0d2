-- Bounds a transaction without a user scope: a client that is frozen or cut off in it blocks others
-- for seconds only.
-- $1 the longest wait for a lock, $2 the longest statement (milliseconds, as text)
SELECT set_config('lock_timeout', $1, true),
       set_config('statement_timeout', $2, true),
       set_config('idle_in_transaction_session_timeout', '5000', true),
       -- What we say is stored must be on disk.
       set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                       ELSE current_setting('synchronous_commit') END, true)
