-- How many rows have a client in them that can't be taken out. $1 from before this time
SELECT count(*) FROM auth.encryption_vault_audit
WHERE created_at < $1 AND seal IS NULL AND (ip_address IS NOT NULL OR user_agent IS NOT NULL)
