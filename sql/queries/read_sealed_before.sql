-- A page of rows that are sealed with a predecessor of a data key, in the order of users.
-- $1 the data key, $2 above which user id, $3 up to which one or NULL, $4 when the run began, $5 how many.
-- They are taken by their places: the row, its wrap, and what goes into its seal, the time as it goes there
SELECT user_id, seal, row_version, is_set_aside,
       wrapped_mk, wrap_iv, format_version, kek_id,
       generation, seal_serial, zero_knowledge, key_check, recovery_digest, recovery_format_version,
       extract(epoch FROM recovery_set_at)::text AS recovery_set_at, wrapped_mk IS NOT NULL AS has_wrap,
       previous_generation, previous_digest
FROM auth.custody_load_sealed_before($1, $2, $3, $4, $5)
