-- The audit's words and bounds. A data key that was ended leaves the word of the current one for it, by which its
-- checkpoints and rows are still known, and those of nobody else. And who has the password of custody_app can
-- neither fill the table of checkpoints with what is none, nor have all of the audit hashed at once.

ALTER TABLE auth.encryption_data_keys
    ADD COLUMN IF NOT EXISTS ended_words TEXT[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN auth.encryption_data_keys.ended_words IS
    'For the audit: notes that name the public keys of data keys that were ended, each signed by the one that came after it, the oldest first';

DROP FUNCTION IF EXISTS auth.custody_end_data_key(TEXT, TEXT, TEXT, TEXT);

-- As in 0014, and it keeps what the current data key says of the one that is ended. Answers ended (now),
-- unknown (there is none), changed (a record is not as it was read), or what still carries it: rows
-- (sealed with it), wraps (made with it), keks (their records are sealed with it).
CREATE OR REPLACE FUNCTION auth.custody_end_data_key(
        its_id TEXT, its_seal TEXT, current_id TEXT, current_seal TEXT, its_word TEXT)
    RETURNS TEXT
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    answer TEXT;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'a data key is ended in READ COMMITTED only'
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'An older snapshot could miss a row that carries it.';
    END IF;
    IF its_word IS NULL OR NOT starts_with(its_word, E'custody-audit-ended-key\n' || its_id || E'\n')
       OR octet_length(its_word) > 1000 THEN
        RAISE EXCEPTION 'no data key is ended without a word for the audit'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM set_config('custody.looks_for_seals', 'on', true);
    PERFORM set_config('custody.sampled_kek_id', its_id, true);
    -- The first look takes no lock, so that an attempt in vain holds up no writer. The second one comes
    -- after the writers: see custody_refuse_ended_data_key, and custody_refuse_retired_kek.
    FOR look IN 1..2 LOOP
        answer := CASE
            WHEN NOT EXISTS (SELECT 1 FROM auth.encryption_data_keys AS key WHERE key.id = its_id)
                THEN 'unknown'
            WHEN NOT starts_with(its_seal, '2.' || current_id || '.') OR NOT starts_with(current_seal, '1.')
                OR (SELECT count(*) FROM auth.encryption_data_keys AS key
                    WHERE (key.id, key.seal) IN ((its_id, its_seal), (current_id, current_seal))) <> 2
                THEN 'changed'
            WHEN EXISTS (SELECT 1 FROM auth.encryption_vaults AS vault
                         WHERE vault.seal IS NOT NULL
                             AND starts_with(vault.seal, '1.' || its_id || '.')) THEN 'rows'
            WHEN EXISTS (SELECT 1 FROM auth.encryption_vaults AS vault
                         WHERE vault.kek_id = its_id AND vault.wrapped_mk IS NOT NULL) THEN 'wraps'
            WHEN EXISTS (SELECT 1 FROM auth.encryption_keks AS kek
                         WHERE starts_with(kek.seal, '1.' || its_id || '.')) THEN 'keks'
        END;
        EXIT WHEN answer IS NOT NULL OR look = 2;
        PERFORM pg_advisory_xact_lock(hashtextextended('custody kek ' || its_id, 0));
        LOCK TABLE auth.encryption_keks, auth.encryption_data_keys IN SHARE ROW EXCLUSIVE MODE;
    END LOOP;
    PERFORM set_config('custody.looks_for_seals', '', true);
    PERFORM set_config('custody.sampled_kek_id', '', true);
    IF answer IS NULL THEN
        UPDATE auth.encryption_data_keys AS key
            SET ended = key.ended || before.ended || before.id,
                ended_words = key.ended_words || before.ended_words || its_word
            FROM auth.encryption_data_keys AS before
            WHERE key.id = current_id AND before.id = its_id;
        DELETE FROM auth.encryption_data_keys AS key WHERE key.id = its_id;
        answer := 'ended';
    END IF;
    RETURN answer;
END
$$;

-- As in 0015, but no more than 100,000 numbers at once.
CREATE OR REPLACE FUNCTION auth.custody_audit_leaves(
        above BIGINT, up_to BIGINT, most INTEGER,
        OUT last_row BIGINT, OUT count BIGINT, OUT leaves BYTEA)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    most := least(greatest(most, 1), 100000);
    PERFORM set_config('custody.reads_audit', 'on', true);
    -- Whoever sets the sequence far ahead leaves a gap that is one step, and no more.
    SELECT min(audit.number) INTO last_row
        FROM auth.encryption_vault_audit AS audit WHERE audit.number > above;
    last_row := CASE WHEN last_row <= up_to - most THEN last_row + most - 1 ELSE up_to END;
    SELECT count(*), coalesce(string_agg(page.leaf, '' ORDER BY page.number), '')
    INTO count, leaves
    FROM (
        SELECT audit.number,
               sha256('\x00'::bytea || record_send(ROW(
                   audit.number, audit.id, audit.user_id, audit.action, audit.context, audit.status,
                   audit.created_at, audit.state, audit.seal,
                   CASE WHEN audit.seal IS NULL THEN audit.ip_address END,
                   CASE WHEN audit.seal IS NULL THEN audit.user_agent END))) AS leaf
        FROM auth.encryption_vault_audit AS audit
        WHERE audit.number > above AND audit.number <= last_row
    ) AS page;
    PERFORM set_config('custody.reads_audit', '', true);
END
$$;

-- As in 0015, but of what can be a checkpoint alone: whether it is ours, only a data key can say.
CREATE OR REPLACE FUNCTION auth.custody_add_audit_checkpoint(
        behind BIGINT, its_size BIGINT, its_last_row BIGINT, its_hashes BYTEA, its_note TEXT)
    RETURNS BOOLEAN
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    -- Ours have some 300 bytes. One root for each whole subtree: as many as the size has bits that are set.
    IF octet_length(its_note) > 2000
       OR its_note !~ format(E'^[^\\n]+\\n%s\\n[A-Za-z0-9+/]{43}=\\nlast-row %s\\n\\n', its_size, its_last_row)
       OR octet_length(its_hashes) <> 32 * length(replace(its_size::bit(64)::text, '0', '')) THEN
        RAISE EXCEPTION 'this is no checkpoint'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO auth.encryption_audit_checkpoints (number, size, last_row, hashes, note)
        SELECT behind + 1, its_size, its_last_row, its_hashes, its_note
        WHERE behind = coalesce((SELECT max(there.number) FROM auth.encryption_audit_checkpoints AS there), 0)
        ON CONFLICT DO NOTHING;
    RETURN FOUND;
END
$$;

REVOKE ALL ON FUNCTION auth.custody_end_data_key(TEXT, TEXT, TEXT, TEXT, TEXT) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.custody_end_data_key(TEXT, TEXT, TEXT, TEXT, TEXT) TO custody_rewrap;
-- Up to which row a data key that is ended has sealed.
GRANT EXECUTE ON FUNCTION auth.custody_audit_horizon() TO custody_rewrap;
