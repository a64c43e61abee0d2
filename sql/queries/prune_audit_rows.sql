-- Deletes audit rows. $1 their numbers
DELETE FROM auth.encryption_vault_audit WHERE number = ANY ($1::bigint[])
