-- A daemon that ends, and those that ended without removing their record. $1 id
DELETE FROM auth.custody_instances
WHERE id = $1 OR heartbeat_at < now() - interval '1 day'
