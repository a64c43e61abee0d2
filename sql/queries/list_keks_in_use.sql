-- The kek_ids under which there are wraps.
SELECT kek_id FROM auth.custody_keks_in_use() AS kek_id
