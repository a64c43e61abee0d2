-- A page of rows that are not sealed, in the order of users.
-- $1 kek_id, $2 format, 0: those that need no new wrap, $3 above which user id, $4 up to which one or NULL,
-- $5 how many. The time is as it goes into the seal
SELECT user_id, wrapped_mk, wrap_iv, format_version, kek_id, generation, zero_knowledge, key_check,
       recovery_digest, recovery_format_version,
       extract(epoch FROM recovery_set_at)::text AS recovery_set_at,
       -- Whoever begins a rotation seals the row.
       NULL::text AS previous_digest, NULL::bigint AS previous_generation, seal_serial, row_version
FROM auth.custody_read_unsealed($1, $2, $3, $4, $5)
