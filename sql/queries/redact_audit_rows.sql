-- Takes address and user agent out of rows that have a seal. $1 their numbers
UPDATE auth.encryption_vault_audit SET ip_address = NULL, user_agent = NULL
WHERE number = ANY ($1::bigint[]) AND seal IS NOT NULL
