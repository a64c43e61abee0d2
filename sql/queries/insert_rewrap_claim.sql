-- $1 run, $2 owner, $3 kek_id, $4 format, $5 above, $6 up to
INSERT INTO auth.rewrap_claims (run_id, owner, kek_id, format, above, up_to)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING id
