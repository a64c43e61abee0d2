-- One audit row. Idempotent: an action has one id, so a second try after a lost answer adds no row.
-- $1 id, $2 user id, $3 action, $4 ip address, $5 user agent, $6 context, $7 status, $8 state,
-- $9 seal, in hexadecimal
INSERT INTO auth.encryption_vault_audit
    (id, user_id, action, ip_address, user_agent, context, status, state, seal)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, decode($9, 'hex'))
ON CONFLICT DO NOTHING
