-- Gives back a claim, some of whose rows are not done, to be reclaimed later. Idempotent: without an
-- owner it can't be given back a second time, should the answer to this COMMIT be lost.
-- $1 claim, $2 owner, $3 how many seconds old its heartbeat is made
UPDATE auth.rewrap_claims SET owner = '', heartbeat_at = now() - make_interval(secs => $3::float8)
WHERE id = $1 AND owner = $2
RETURNING id
