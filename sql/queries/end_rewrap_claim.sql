-- Ends a claim that is still the owner's. $1 claim, $2 owner
DELETE FROM auth.rewrap_claims WHERE id = $1 AND owner = $2 RETURNING id
