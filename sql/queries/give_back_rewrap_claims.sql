-- Gives back all claims that the owners still have of a run: they expire at once, and are reclaimed.
-- $1 run, $2 owners, NULL: of everybody
UPDATE auth.rewrap_claims SET owner = '', heartbeat_at = '-infinity'
WHERE run_id = $1 AND ($2::text[] IS NULL OR owner = ANY ($2))
