-- Removes the claims that were left of runs that have ended.
DELETE FROM auth.rewrap_claims
WHERE run_id IN (SELECT id FROM auth.rewrap_runs WHERE state <> 'running')
