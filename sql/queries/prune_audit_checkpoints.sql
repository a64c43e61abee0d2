-- Deletes the checkpoints before one. $1 its number
DELETE FROM auth.encryption_audit_checkpoints WHERE number < $1
