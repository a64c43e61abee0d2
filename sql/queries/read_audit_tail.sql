-- What is behind the last checkpoint. $1 the last row that is under it
SELECT min(number) AS first, max(number) AS last, count(*) AS count,
       -- By the database's clock alone, which has set created_at too. One of the future is as suspect: it would
       -- be new for ever.
       coalesce(bool_or(created_at < clock_timestamp() - INTERVAL '2 minutes'
                        OR created_at > clock_timestamp() + INTERVAL '2 minutes'), false) AS is_old,
       -- Of a copy, such as a restored one, the clock says nothing: a daemon had two minutes while it lived.
       coalesce(max(created_at) - min(created_at) > INTERVAL '2 minutes', false) AS spans_long
FROM auth.encryption_vault_audit
WHERE number > $1
