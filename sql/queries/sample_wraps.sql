-- A few wraps that carry a kek_id whose record is not sealed. $1 kek_id
SELECT user_id, generation, wrapped_mk, wrap_iv, format_version FROM auth.custody_sample_rows($1)
