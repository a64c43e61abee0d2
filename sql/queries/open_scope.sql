-- Opens a transaction's scope: whose rows it may see, and until when it may commit.
-- $1 user id, $2 seconds left, $3 the longest a statement may run (milliseconds, as text)
SELECT set_config('app.current_user_id', $1, true),
       set_config('app.deadline', (extract(epoch FROM clock_timestamp()) + $2::float8::numeric)::text, true),
       set_config('statement_timeout', $3, true),
       set_config('idle_in_transaction_session_timeout', $3, true),
       set_config('lock_timeout', '2000', true),
       -- A key may leave once its audit row is committed, so committed must mean on disk.
       set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                       ELSE current_setting('synchronous_commit') END, true)
