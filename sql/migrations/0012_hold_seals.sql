-- What holds rows to their seals. For whoever writes: the format of a wrap never falls, and neither a key
-- check value nor a seal is taken away. For whoever is under row-level security (the runtime roles, and the
-- owner, since it is forced) more: no wrap of an old format is written, and seal_serial counts every change
-- of what is sealed. It can't be chosen and never goes back, so a whole old row that is put back by such a
-- role does not verify.

CREATE OR REPLACE FUNCTION auth.custody_keep_seal() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed BOOLEAN := (NEW.generation, NEW.zero_knowledge, NEW.key_check, NEW.recovery_wrapped_mk,
                        NEW.recovery_iv, NEW.recovery_format_version, NEW.recovery_set_at,
                        NEW.wrapped_mk IS NULL)
        IS DISTINCT FROM (OLD.generation, OLD.zero_knowledge, OLD.key_check, OLD.recovery_wrapped_mk,
                          OLD.recovery_iv, OLD.recovery_format_version, OLD.recovery_set_at,
                          OLD.wrapped_mk IS NULL);
BEGIN
    -- least: a format of nobody's, planted, must not lock honest writers out.
    IF NEW.format_version < least(OLD.format_version, 3) THEN
        RAISE EXCEPTION 'the format of a wrap never falls' USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.key_check IS NOT NULL AND NEW.key_check IS NULL THEN
        RAISE EXCEPTION 'a key check value is never taken away' USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.seal IS NOT NULL AND NEW.seal IS NULL THEN
        RAISE EXCEPTION 'a seal is never taken away' USING ERRCODE = 'restrict_violation';
    END IF;
    -- In a transaction of a daemon, which has a deadline: one of before, in the seconds until it notices
    -- the new schema, or a defect. Whoever else does it has a row that nobody believes.
    IF OLD.seal IS NOT NULL AND changed AND NEW.seal = OLD.seal
       AND nullif(current_setting('app.deadline', true), '') IS NOT NULL THEN
        RAISE EXCEPTION 'a sealed row was changed without a new seal' USING ERRCODE = 'restrict_violation';
    END IF;
    IF row_security_active(TG_RELID) THEN
        IF NEW.wrapped_mk IS NOT NULL AND NEW.format_version < 3
           AND (NEW.wrapped_mk, NEW.wrap_iv, NEW.kek_id)
               IS DISTINCT FROM (OLD.wrapped_mk, OLD.wrap_iv, OLD.kek_id) THEN
            RAISE EXCEPTION 'a wrap of an old format is never written' USING ERRCODE = 'restrict_violation';
        END IF;
        NEW.seal_serial := OLD.seal_serial + (changed OR NEW.seal IS DISTINCT FROM OLD.seal)::integer;
    END IF;
    RETURN NEW;
END
$$;

-- By its name it comes after encryption_vaults_refuse_retired_kek, whose refusal is the more telling one.
DROP TRIGGER IF EXISTS encryption_vaults_seal_kept ON auth.encryption_vaults;
CREATE TRIGGER encryption_vaults_seal_kept BEFORE UPDATE ON auth.encryption_vaults
    FOR EACH ROW EXECUTE FUNCTION auth.custody_keep_seal();

-- The daemon writes sealed rows alone: one that is not can be brought over, and nothing else. By policy, not
-- by trigger: that would refuse another user's row before its own policy does.
DROP POLICY IF EXISTS encryption_vaults_app_inserts ON auth.encryption_vaults;
CREATE POLICY encryption_vaults_app_inserts ON auth.encryption_vaults AS RESTRICTIVE
    FOR INSERT TO custody_app
    WITH CHECK (seal IS NOT NULL AND (wrapped_mk IS NULL OR format_version >= 3));
DROP POLICY IF EXISTS encryption_vaults_app_updates ON auth.encryption_vaults;
CREATE POLICY encryption_vaults_app_updates ON auth.encryption_vaults AS RESTRICTIVE
    FOR UPDATE TO custody_app
    USING (true) WITH CHECK (seal IS NOT NULL AND (wrapped_mk IS NULL OR format_version >= 3));
