-- How many claims of a run somebody looks after. $1 run, $2 for how many seconds a word from the owner
-- is good
SELECT count(*) FROM auth.rewrap_claims
WHERE run_id = $1 AND owner <> '' AND heartbeat_at > now() - make_interval(secs => $2::float8)
