-- What grows old by itself, as seconds since 1970, and how many rows the latest run has set aside; NULL
-- where there is none. $1 kek_id of the active KEK, $2 the kek_ids that rows carry. Each by a primary key, of tables with a row for each KEK and for each run
SELECT (SELECT extract(epoch FROM activated_at)::float8 FROM auth.encryption_keks WHERE kek_id = $1)
           AS kek_activated,
       (SELECT extract(epoch FROM min(since))::float8
        FROM (SELECT recorded_at FROM auth.encryption_keks WHERE kek_id = ANY ($2::text[])
              UNION ALL
              SELECT created_at FROM auth.encryption_data_keys WHERE id = ANY ($2::text[])) AS used(since))
           AS oldest_used,
       (SELECT extract(epoch FROM ended_at)::float8 FROM auth.rewrap_runs WHERE state = 'done'
        ORDER BY id DESC LIMIT 1) AS run_done,
       (SELECT failed FROM auth.rewrap_runs ORDER BY id DESC LIMIT 1) AS run_failed
