-- Where the next claim of a run begins; claimers wait for one another here.
-- Meanwhile pages are read by one process: to start others for a page takes longer than to read it. $1 run
SELECT state, cursor_kek_id, cursor_format, cursor_user_id, started_at, done,
       set_config('max_parallel_workers_per_gather', '0', true)
FROM auth.rewrap_runs WHERE id = $1 FOR UPDATE
