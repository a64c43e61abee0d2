-- What the last audited change left of each vault, and what the vault is now. $1 above this user,
-- $2 how many users at most
SELECT user_id, state, number, has_vault, generation, zero_knowledge, key_check, recovery_digest,
       recovery_format_version,
       -- As it is sealed; see read_vaults.
       extract(epoch FROM recovery_set_at)::text AS recovery_set_at, previous_digest, previous_generation,
       has_wrap, went_with_account
FROM auth.custody_load_states($1, $2)
