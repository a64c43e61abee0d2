-- The audit row of an erasure, in the scope of the user who was erased: it leaves no vault. One that is there
-- stays: an erasure has one id. $1 id, $2 user id, $3 context
INSERT INTO auth.encryption_vault_audit (id, user_id, action, context, status, state)
VALUES ($1, $2, 'erase', $3, 200, 'erased')
ON CONFLICT DO NOTHING
