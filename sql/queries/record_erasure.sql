-- The audit row of an erasure, in the scope of the user who was erased: it leaves no vault.
-- $1 id, $2 user id
INSERT INTO auth.encryption_vault_audit (id, user_id, action, status, state)
VALUES ($1, $2, 'erase', 200, 'erased')
