-- The vaults of some users, each read in the scope of its own user. $1 user ids
SELECT place, clock, known, user_id, wrapped_mk, wrap_iv, format_version, kek_id,
       recovery_wrapped_mk, recovery_iv, recovery_format_version,
       -- As text: whatever the column holds (it may be infinite), this is not an error.
       extract(epoch FROM recovery_set_at)::text AS recovery_set_at,
       zero_knowledge, generation, key_check, previous_wrapped_mk, previous_wrap_iv, previous_generation,
       seal, seal_serial, row_version
FROM auth.custody_load_vaults($1)
