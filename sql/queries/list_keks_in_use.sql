-- The kek_ids under which there are wraps, and which of them rows carry: under the others there are data
-- keys alone.
SELECT kek_id, in_rows FROM auth.custody_find_keks_in_use()
