-- Stores a whole state of a vault, as it is sealed, in place of the one that was judged.
-- $1 user id, $2 row_version, $3 generation, $4 zero_knowledge, $5 wrapped_mk, $6 wrap_iv,
-- $7 format_version and $8 kek_id (NULL: they stay), $9 key_check, $10 recovery_wrapped_mk,
-- $11 recovery_iv, $12 recovery_format_version, $13 recovery_set_at,
-- $14 previous_generation, $15 previous_wrapped_mk, $16 previous_wrap_iv, $17 seal
UPDATE auth.encryption_vaults
SET generation = $3, zero_knowledge = $4, wrapped_mk = $5, wrap_iv = $6,
    format_version = coalesce($7, format_version), kek_id = coalesce($8, kek_id), key_check = $9,
    recovery_wrapped_mk = $10, recovery_iv = $11, recovery_format_version = $12, recovery_set_at = $13,
    previous_generation = $14, previous_wrapped_mk = $15, previous_wrap_iv = $16, seal = $17,
    rotated_at = CASE WHEN generation <> $3 THEN now() ELSE rotated_at END,
    -- A row was set aside for its wrap: another one lifts that.
    quarantined_at = CASE WHEN wrapped_mk IS NOT DISTINCT FROM $5 THEN quarantined_at END,
    quarantine_reason = CASE WHEN wrapped_mk IS NOT DISTINCT FROM $5 THEN quarantine_reason END
WHERE user_id = $1 AND row_version = $2
RETURNING generation
