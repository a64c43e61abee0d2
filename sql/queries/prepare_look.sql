-- What the look at schema and roles relies on, to the end of its transaction and whatever the role, the
-- database or the URL sets: expressions are shown with every name qualified and nothing quoted.
SELECT set_config('search_path', 'pg_catalog, pg_temp', true),
       set_config('quote_all_identifiers', 'off', true),
       set_config('standard_conforming_strings', 'on', true)
