-- A page of rows that are sealed with a predecessor of a data key, in the order of users.
-- $1 the data key, $2 above which user id, $3 up to which one or NULL, $4 when the run began, $5 how many.
-- The time is as it goes into the seal
SELECT user_id, wrapped_mk, wrap_iv, format_version, kek_id, generation, zero_knowledge, key_check,
       recovery_digest, recovery_format_version,
       extract(epoch FROM recovery_set_at)::text AS recovery_set_at, previous_digest, previous_generation,
       seal, seal_serial, row_version, is_set_aside
FROM auth.custody_load_sealed_before($1, $2, $3, $4, $5)
