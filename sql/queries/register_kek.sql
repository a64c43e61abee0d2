-- Registers a KEK, or completes its record; answers with what is recorded now.
-- $1 kek_id, $2 backend, $3 KEK URI, $4 fingerprint or NULL, $5 seal or NULL, $6 whether it wraps new keys
SELECT fingerprint, backend, state, seal FROM auth.custody_register_kek($1, $2, $3, $4, $5, $6)
