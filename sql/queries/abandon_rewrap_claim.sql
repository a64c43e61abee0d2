-- Lets go of a claim, some of whose rows are not done, for whoever comes later. Without an owner it
-- can't be let go of a second time, should the word of this commit be lost.
-- $1 claim, $2 owner, $3 for how many seconds it seems looked after
UPDATE auth.rewrap_claims SET owner = '', heartbeat_at = now() - make_interval(secs => $3::float8)
WHERE id = $1 AND owner = $2
RETURNING id
