-- Of a run that goes on; nobody works on what another one left. $1 run
SELECT count(*) FROM auth.rewrap_claims
WHERE run_id = (SELECT id FROM auth.rewrap_runs WHERE id = $1 AND state = 'running')
