-- A restored database may be from before a user was erased. Erasures are on record outside of the database;
-- this says which of them it does not have.

-- The places of those erasures of which there is no audit row. Row by row by the primary key, and not by a
-- join, for which the planner might read the whole audit. Whoever runs it has to know an id: he is told
-- whether there is an erasure of this id and this user, and nothing else.
CREATE OR REPLACE FUNCTION auth.custody_find_due_erasures(ids TEXT[], user_ids TEXT[])
    RETURNS TABLE (place BIGINT)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('custody.reads_audit', 'on', true);
    RETURN QUERY
        SELECT given.place
        FROM unnest(ids, user_ids) WITH ORDINALITY AS given (id, user_id, place)
        WHERE coalesce((SELECT audit.user_id = given.user_id AND audit.action = 'erase' AND audit.state = 'erased'
                        FROM auth.encryption_vault_audit AS audit WHERE audit.id = given.id), false) IS FALSE
        ORDER BY given.place;
    PERFORM set_config('custody.reads_audit', '', true);
END
$$;

REVOKE ALL ON FUNCTION auth.custody_find_due_erasures(TEXT[], TEXT[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.custody_find_due_erasures(TEXT[], TEXT[]) TO custody_app;
-- It reads the whole audit anyway.
DO $$
BEGIN
    IF to_regrole('custody_audit') IS NOT NULL THEN
        GRANT EXECUTE ON FUNCTION auth.custody_find_due_erasures(TEXT[], TEXT[]) TO custody_audit;
    END IF;
END
$$;
