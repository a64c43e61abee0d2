-- Lets go of all that the owners still have of a run, for whoever comes: it is taken over at once.
-- $1 run, $2 owners, NULL: of everybody
UPDATE auth.rewrap_claims SET owner = '', heartbeat_at = '-infinity'
WHERE run_id = $1 AND ($2::text[] IS NULL OR owner = ANY ($2))
