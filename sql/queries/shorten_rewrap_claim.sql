-- Gives back the rest of a claim: it expires at once, and is reclaimed. $1 claim, $2 owner, $3 what is done up to here
UPDATE auth.rewrap_claims SET owner = '', above = $3, heartbeat_at = '-infinity'
WHERE id = $1 AND owner = $2
RETURNING id
