-- How many claims of a run have an owner and have not expired. $1 run, $2 for how many seconds a
-- heartbeat is good
SELECT count(*) FROM auth.rewrap_claims
WHERE run_id = $1 AND owner <> '' AND heartbeat_at > now() - make_interval(secs => $2::float8)
