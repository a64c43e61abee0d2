"""Every unsafe state of the database is named in one line, with a cure that cures it."""

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from custody.db.engine import Connection
from custody.db.migrate import migrations
from custody.db.posture import Duty, PostureProblem, look
from custody.db.queries import folder
from tests.db.breaking import GIVE_USERS_AWAY
from tests.db.posture import login, migrate_by_psql, problems_of
from tests.majors import MAJOR
from tests.proofs import some
from tests.servers import Database

AGAIN = "sql/migrations again by psql"
MIGRATE = f"run: custody migrate, or {AGAIN}"
POLICIES = {
    "encryption_vaults": (
        "encryption_vaults_own_row",
        "encryption_vaults_rewrap_read",
        "encryption_vaults_rewrap_write",
        "encryption_vaults_kek_sample",
        "encryption_vaults_bring_over",
        "encryption_vaults_app_inserts",
        "encryption_vaults_app_updates",
    ),
    "encryption_vault_audit": (
        "encryption_vault_audit_own_row",
        "encryption_vault_audit_rewrap",
        "encryption_vault_audit_prune",
        "encryption_vault_audit_redact",
    ),
    "users": ("users_own_row",),
}
SCOPED = tuple(POLICIES)


@dataclass(frozen=True)
class Trial:
    """A login role that is a plain member of a runtime role, in a transaction that ends with it.

    Args:
        held: the superuser's connection.
        role: its name.
        duty: its runtime role.
    """

    held: Connection
    role: str
    duty: Duty

    async def problems(self) -> tuple[PostureProblem, ...]:
        """Look as the role does, and leave no setting of the look behind."""
        await self.held.execute(f"SAVEPOINT here; SET LOCAL SESSION AUTHORIZATION {self.role}")
        try:
            return await look(self.held, self.duty)
        finally:
            await self.held.execute("ROLLBACK TO SAVEPOINT here")

    async def cure(self, problem: PostureProblem) -> None:
        """Do what the message says."""
        first, both, _ = problem.message.rpartition("run: ")[2].partition(", then sql/migrations")
        if both:
            await self.held.execute(first)
        if "again by psql" in problem.message:
            await self.held.execute("SET LOCAL SESSION AUTHORIZATION custody_owner")
            for migration in migrations():
                await self.held.execute(migration.sql)
            await self.held.execute("SET LOCAL SESSION AUTHORIZATION DEFAULT")
        elif "run REVOKE on one" in problem.message:
            await self.held.execute(f"REVOKE custody_rewrap FROM {problem.message.split()[2]}")
        else:
            await self.held.execute(problem.message.rpartition("run: ")[2])


@asynccontextmanager
async def trial(database: Database, duty: Duty = "custody_app") -> AsyncIterator[Trial]:
    role = f"login_{secrets.token_hex(4)}"
    async with database.connect() as held:  # whose end takes all of it back
        await held.execute(f"BEGIN; CREATE ROLE {role} LOGIN; GRANT {duty} TO {role}")
        yield Trial(held, role, duty)


# name → SQL that makes it unsafe, the part, the whole message
CURABLE: dict[str, tuple[str, str, str]] = {
    "bypassrls": (
        "ALTER ROLE {role} BYPASSRLS",
        "roles",
        "the role {role} skips row-level security; run: ALTER ROLE {role} NOBYPASSRLS",
    ),
    "bypassrls of a group": (
        "CREATE ROLE {role}_up BYPASSRLS; GRANT {role}_up TO {role}",
        "roles",
        "the role {role}_up skips row-level security; run: ALTER ROLE {role}_up NOBYPASSRLS",
    ),
    "createrole": (
        "ALTER ROLE {role} CREATEROLE",
        "roles",
        "the role {role} may make roles; run: ALTER ROLE {role} NOCREATEROLE",
    ),
    "both duties": (
        "GRANT custody_rewrap TO {role}",
        "roles",
        (
            "the role {role} is a member of both runtime roles; one login role per duty: "
            "run REVOKE on one"
        ),
    ),
    "not a member": (
        "REVOKE custody_app FROM {role}",
        "roles",
        "the role {role} is not custody_app nor a member of it; run: GRANT custody_app TO {role}",
    ),
    "duty not inherited": (
        "GRANT custody_app TO {role} WITH INHERIT FALSE",
        "roles",
        (
            "the role {role} is a member of custody_app and does not inherit its rights; "
            "run: GRANT custody_app TO {role} WITH INHERIT TRUE"
        ),
    ),
    "duty of a group that inherits nothing": (
        (
            "REVOKE custody_app FROM {role}; CREATE ROLE {role}_up; GRANT {role}_up TO {role};"
            "GRANT custody_app TO {role}_up WITH INHERIT FALSE"
        ),
        "roles",
        (
            "the role {role} is a member of custody_app and does not inherit its rights; "
            "run: GRANT custody_app TO {role} WITH INHERIT TRUE"
        ),
    ),
    "login made with NOINHERIT": (
        ("REVOKE custody_app FROM {role}; ALTER ROLE {role} NOINHERIT;GRANT custody_app TO {role}"),
        "roles",
        (
            "the role {role} is a member of custody_app and does not inherit its rights; "
            "run: GRANT custody_app TO {role} WITH INHERIT TRUE"
        ),
    ),
    "no right to read the marks": (
        "REVOKE SELECT ON auth.custody_marks FROM custody_app",
        "roles",
        (
            "the role {role} may not SELECT auth.custody_marks: a right of custody_app is "
            f"missing, or not inherited; run {AGAIN}"
        ),
    ),
    "right to mark": (
        "GRANT UPDATE ON auth.custody_marks TO custody_app",
        "roles",
        (
            "the role {role} may UPDATE auth.custody_marks; run: REVOKE UPDATE ON "
            "auth.custody_marks FROM custody_app, custody_rewrap, PUBLIC, {role}"
        ),
    ),
    "right to prune": (
        "GRANT DELETE ON auth.encryption_vault_audit TO custody_app",
        "roles",
        (
            "the role {role} may DELETE auth.encryption_vault_audit; run: REVOKE DELETE ON "
            "auth.encryption_vault_audit FROM custody_app, custody_rewrap, PUBLIC, {role}"
        ),
    ),
    "right to say what a prune has left": (
        "GRANT INSERT ON auth.encryption_audit_prunes TO custody_app",
        "roles",
        (
            "the role {role} may INSERT auth.encryption_audit_prunes; run: REVOKE INSERT ON "
            "auth.encryption_audit_prunes FROM custody_app, custody_rewrap, PUBLIC, {role}"
        ),
    ),
    "no right to read": (
        "REVOKE SELECT ON auth.encryption_vaults FROM custody_app",
        "roles",
        (
            "the role {role} may not SELECT auth.encryption_vaults: a right of custody_app is "
            f"missing, or not inherited; run {AGAIN}"
        ),
    ),
    "no right to audit": (
        "REVOKE INSERT ON auth.encryption_vault_audit FROM custody_app",
        "audit",
        (
            "the role {role} may not INSERT auth.encryption_vault_audit: a right of custody_app is "
            f"missing, or not inherited; run {AGAIN}"
        ),
    ),
    "no right to show the audit": (
        "REVOKE SELECT ON auth.encryption_vault_audit FROM custody_app",
        "audit",
        (
            "the role {role} may not SELECT auth.encryption_vault_audit: a right of custody_app is "
            f"missing, or not inherited; run {AGAIN}"
        ),
    ),
    "no right to use the schema": (
        "REVOKE USAGE ON SCHEMA auth FROM custody_app",
        "roles",
        (
            "the role {role} may not use the schema auth, which belongs to custody_owner; "
            "run: GRANT USAGE ON SCHEMA auth TO custody_app"
        ),
    ),
    "no right to sample": (
        "REVOKE EXECUTE ON FUNCTION auth.custody_sample_rows FROM custody_app",
        "roles",
        f"the role {{role}} may not run auth.custody_sample_rows; run {AGAIN}",
    ),
    "no right to read together": (
        "REVOKE EXECUTE ON FUNCTION auth.custody_load_vaults FROM custody_app",
        "roles",
        f"the role {{role}} may not run auth.custody_load_vaults; run {AGAIN}",
    ),
    "no right to record together": (
        "REVOKE EXECUTE ON FUNCTION auth.custody_record_events FROM custody_app",
        "roles",
        f"the role {{role}} may not run auth.custody_record_events; run {AGAIN}",
    ),
    "policy of others": (
        'CREATE POLICY "theirs; --" ON auth.encryption_vaults FOR SELECT USING (true)',
        "schema",
        (
            "the policy theirs; -- on auth.encryption_vaults is not ours and opens rows; "
            'run: DROP POLICY "theirs; --" ON auth.encryption_vaults'
        ),
    ),
    "policy of others on the audit": (
        "CREATE POLICY theirs ON auth.encryption_vault_audit TO custody_rewrap USING (true)",
        "schema",
        (
            "the policy theirs on auth.encryption_vault_audit is not ours and opens rows; "
            "run: DROP POLICY theirs ON auth.encryption_vault_audit"
        ),
    ),
    "policy of others on users": (
        "CREATE POLICY theirs ON auth.users USING (true)",
        "schema",
        (
            "the policy theirs on auth.users is not ours and opens rows; "
            "run: DROP POLICY theirs ON auth.users"
        ),
    ),
    "function missing": (
        "DROP FUNCTION auth.custody_sample_rows",
        "schema",
        f"the function auth.custody_sample_rows is missing or was changed; {MIGRATE}",
    ),
}
for _table in SCOPED:
    for _how in ("NO FORCE", "DISABLE"):
        CURABLE[f"{_table} {_how}"] = (
            f"ALTER TABLE auth.{_table} {_how} ROW LEVEL SECURITY",
            "schema",
            (
                f"row-level security is not enabled and forced on auth.{_table}; run: ALTER TABLE "
                f"auth.{_table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
            ),
        )
    for _policy in POLICIES[_table]:
        CURABLE[f"{_policy} missing"] = (
            f"DROP POLICY {_policy} ON auth.{_table}",
            "schema",
            f"the policy {_policy} is missing or was changed; run {AGAIN}",
        )
        _checks = _policy in {"encryption_vault_audit_rewrap", "encryption_vaults_app_inserts"}
        _clause = "WITH CHECK" if _checks else "USING"
        CURABLE[f"{_policy} changed"] = (
            f"ALTER POLICY {_policy} ON auth.{_table} {_clause} (1 = 1)",
            "schema",
            f"the policy {_policy} is missing or was changed; run {AGAIN}",
        )
        _role = "custody_rewrap" if _policy.endswith("own_row") else "PUBLIC"
        CURABLE[f"{_policy} of {_role}"] = (
            f"ALTER POLICY {_policy} ON auth.{_table} TO {_role}",
            "schema",
            (
                f"the policy {_policy} is given to another role than its own; run {AGAIN}, "
                "as the owner"
            ),
        )
CURABLE["own_row open to write"] = (
    "ALTER POLICY encryption_vaults_own_row ON auth.encryption_vaults WITH CHECK (true)",
    "schema",
    f"the policy encryption_vaults_own_row is missing or was changed; run {AGAIN}",
)
CURABLE["app_updates permissive"] = (
    (
        "DROP POLICY encryption_vaults_app_updates ON auth.encryption_vaults;"
        "CREATE POLICY encryption_vaults_app_updates ON auth.encryption_vaults FOR UPDATE"
        " TO custody_app USING (true)"
        " WITH CHECK (seal IS NOT NULL AND (wrapped_mk IS NULL OR format_version >= 3))"
    ),
    "schema",
    f"the policy encryption_vaults_app_updates is missing or was changed; run {AGAIN}",
)
CURABLE["own_row restrictive"] = (
    (
        "DROP POLICY users_own_row ON auth.users;"
        "CREATE POLICY users_own_row ON auth.users AS RESTRICTIVE"
        " USING (id = nullif(current_setting('app.current_user_id', true), ''))"
        " WITH CHECK (id = nullif(current_setting('app.current_user_id', true), ''))"
    ),
    "schema",
    f"the policy users_own_row is missing or was changed; run {AGAIN}",
)
CURABLE["kek_sample of another owner"] = (
    "ALTER POLICY encryption_vaults_kek_sample ON auth.encryption_vaults TO postgres",
    "schema",
    (
        "the policy encryption_vaults_kek_sample is given to another role than its own; "
        f"run {AGAIN}, as the owner"
    ),
)
for _table, _check in (
    ("encryption_vaults", "has_wrap"),
    ("encryption_vaults", "wrap_iv_pair"),
    ("encryption_vaults", "zk_consistency"),
    ("encryption_data_keys", "id"),
    ("encryption_data_key_wraps", "format"),
    ("encryption_keks", "state"),
    ("encryption_keks", "retired_at"),
):
    for _how in ("missing", "hollowed"):
        _drop = f"ALTER TABLE auth.{_table} DROP CONSTRAINT {_table}_{_check}"
        _add = f"ALTER TABLE auth.{_table} ADD CONSTRAINT {_table}_{_check} CHECK (true)"
        CURABLE[f"{_check} {_how}"] = (
            _drop if _how == "missing" else f"{_drop}; {_add}",
            "schema",
            (f"the constraint {_table}_{_check} is missing or was changed; run all of {AGAIN}"),
        )
CURABLE["constraint not validated"] = (
    (
        "ALTER TABLE auth.encryption_vaults DROP CONSTRAINT encryption_vaults_has_wrap;"
        "ALTER TABLE auth.encryption_vaults ADD CONSTRAINT encryption_vaults_has_wrap"
        " CHECK (wrapped_mk IS NOT NULL OR recovery_wrapped_mk IS NOT NULL) NOT VALID"
    ),
    "schema",
    (f"the constraint encryption_vaults_has_wrap is missing or was changed; run all of {AGAIN}"),
)
for _table, _trigger in (
    ("encryption_vaults", "encryption_vaults_row_version"),
    ("encryption_vaults", "encryption_vaults_refuse_retired_kek"),
    ("encryption_vault_audit", "encryption_vault_audit_deadline"),
    ("encryption_vaults", "encryption_vaults_refuse_ended_data_key"),
    ("encryption_vaults", "encryption_vaults_seal_kept"),
    ("encryption_data_key_wraps", "encryption_data_key_wraps_refuse_retired"),
    ("encryption_keks", "encryption_keks_keep"),
    ("encryption_keks", "encryption_keks_keep_all"),
):
    for _how in (
        "DROP TRIGGER {trigger} ON auth.{table}",
        "ALTER TABLE auth.{table} DISABLE TRIGGER {trigger}",
        "ALTER TABLE auth.{table} ENABLE REPLICA TRIGGER {trigger}",
    ):
        CURABLE[f"{_trigger} {_how.partition('auth')[0]}"] = (
            _how.format(table=_table, trigger=_trigger),
            "schema",
            f"the trigger {_trigger} is missing, disabled or was changed; run {AGAIN}",
        )
for _table, _column in (
    ("encryption_vaults", "row_version"),
    ("encryption_vaults", "key_check"),
    ("encryption_vaults", "quarantine_reason"),
    ("encryption_vaults", "seal_serial"),
    ("encryption_data_keys", "lost_at"),
    ("encryption_data_key_wraps", "created_at"),
    ("encryption_keks", "seal"),
    ("encryption_keks", "backend"),
    ("encryption_keks", "locator"),
    ("encryption_keks", "activated_at"),
):
    CURABLE[f"{_column} missing"] = (
        f"ALTER TABLE auth.{_table} DROP COLUMN {_column}",
        "schema",
        f"auth.{_table} has no column {_column}; {MIGRATE}",
    )
for _table in (
    "custody_marks",
    "encryption_data_key_wraps",
    "encryption_keks",
    "encryption_vault_audit",
    "encryption_vaults",
):
    CURABLE[f"{_table} missing"] = (
        f"DROP TABLE auth.{_table}",
        "schema",
        f"auth.{_table} is missing; {MIGRATE}",
    )
for _table, _rights in (
    ("encryption_vault_audit", ("UPDATE", "DELETE", "TRUNCATE", "UPDATE (status)")),
    ("encryption_vaults", ("DELETE", "TRUNCATE")),
    (
        "encryption_keks",
        ("INSERT", "INSERT (kek_id)", "UPDATE", "DELETE", "TRUNCATE", "UPDATE (fingerprint)"),
    ),
    ("encryption_data_keys", ("INSERT (id)", "UPDATE (lost_at)", "DELETE")),
    ("encryption_data_key_wraps", ("INSERT", "UPDATE (wrapped_key)", "DELETE", "TRUNCATE")),
):
    for _right in _rights:
        for _grantee in ("{role}", "custody_app", "PUBLIC"):
            _word = _right.partition(" ")[0]
            CURABLE[f"{_right} of {_table} to {_grantee}"] = (
                f"GRANT {_right} ON auth.{_table} TO {_grantee}",
                "roles",
                (
                    f"the role {{role}} may {_word} auth.{_table}; run: REVOKE {_word} ON "
                    f"auth.{_table} FROM custody_app, custody_rewrap, PUBLIC, {{role}}"
                ),
            )


FUNCTIONS = (
    "custody_add_audit_checkpoint",
    "custody_add_data_key",
    "custody_announce_data_key",
    "custody_audit_leaves",
    "custody_count_pending",
    "custody_count_unsealed",
    "custody_doubt_kek",
    "custody_drop_data_key_wrap",
    "custody_end_data_key",
    "custody_forget_kek",
    "custody_promote_data_key",
    "custody_put_data_key_wrap",
    "custody_load_sealed_before",
    "custody_read_unsealed",
    "custody_refuse_ended_data_key",
    "custody_reseal_kek",
    "custody_reseal_rows",
    "custody_keep_seal",
    "custody_refuse_retired_data_key_wrap",
    "custody_seal_rows",
    "custody_keep_kek",
    "custody_find_keks_in_use",
    "custody_load_vaults",
    "custody_record_events",
    "custody_refuse_retired_kek",
    "custody_refuse_retired_keks",
    "custody_register_kek",
    "custody_retire_kek",
    "custody_sample_rows",
)
# As whoever may change functions would: one statement more in the body of the one that is there.
_HOLLOW = (
    "DO $do$ BEGIN EXECUTE replace(pg_get_functiondef('auth.{name}'::regproc),"
    " 'BEGIN', 'BEGIN NULL;'); END $do$"
)
for _name in FUNCTIONS:
    CURABLE[f"{_name} hollowed"] = (
        _HOLLOW.replace("{name}", _name),
        "schema",
        f"the function auth.{_name} is missing or was changed; {MIGRATE}",
    )
for _name, _change in (
    ("custody_find_keks_in_use", "SECURITY INVOKER"),
    ("custody_seal_rows", "SECURITY INVOKER"),
    ("custody_reseal_rows", "SECURITY INVOKER"),
    ("custody_end_data_key", "RESET lock_timeout"),
    ("custody_refuse_ended_data_key", "RESET row_security"),
    ("custody_forget_kek", "SECURITY DEFINER"),
    ("custody_add_data_key", "RESET lock_timeout"),
    ("custody_refuse_retired_data_key_wrap", "RESET row_security"),
    ("custody_load_vaults", "SECURITY DEFINER"),
    ("custody_record_events", "SECURITY DEFINER"),
    ("custody_record_events", "RESET search_path"),
    ("custody_register_kek", "SECURITY INVOKER"),
    ("custody_retire_kek", "SECURITY INVOKER"),
    ("custody_retire_kek", "RESET search_path"),
    ("custody_retire_kek", "RESET lock_timeout"),
    ("custody_keep_kek", "SECURITY DEFINER"),
    ("custody_refuse_retired_kek", "SECURITY DEFINER"),
    ("custody_refuse_retired_kek", "RESET row_security"),
    ("custody_refuse_retired_keks", "RESET row_security"),
    ("custody_load_sealed_before", "RESET enable_sort"),
):
    CURABLE[f"{_name} {_change}"] = (
        f"ALTER FUNCTION auth.{_name} {_change}",
        "schema",
        f"the function auth.{_name} is missing or was changed; {MIGRATE}",
    )
for _name in ("custody_register_kek", "custody_find_keks_in_use"):
    CURABLE[f"no right to run {_name}"] = (
        f"REVOKE EXECUTE ON FUNCTION auth.{_name} FROM custody_app",
        "roles",
        f"the role {{role}} may not run auth.{_name}; run {AGAIN}",
    )
for _grantee in ("{role}", "custody_app", "PUBLIC"):
    CURABLE[f"right to retire to {_grantee}"] = (
        f"GRANT EXECUTE ON FUNCTION auth.custody_retire_kek TO {_grantee}",
        "roles",
        (
            "the role {role} may run auth.custody_retire_kek, which is not its duty; run: REVOKE "
            "EXECUTE ON FUNCTION auth.custody_retire_kek FROM custody_app, PUBLIC, {role}"
        ),
    )
_LOST = (
    "nothing marks auth.users as custody's own or as somebody else's, so that new users would be "
    f"refused; run {AGAIN}"
)
for _sql in (
    "DELETE FROM auth.custody_marks",
    "DELETE FROM auth.custody_marks; COMMENT ON TABLE auth.users IS NULL",
):
    CURABLE[_sql] = (_sql, "schema", _LOST)
CURABLE["marked as somebody else's"] = (
    "UPDATE auth.custody_marks SET ours = false",
    "schema",
    (
        "auth.users has custody's own policy and is marked as somebody else's, so that new users "
        "are refused; run: UPDATE auth.custody_marks SET ours = true WHERE table_name = 'users'"
    ),
)
CURABLE["row-level security on the marks"] = (
    "ALTER TABLE auth.custody_marks ENABLE ROW LEVEL SECURITY",
    "schema",
    (
        "row-level security hides what auth.custody_marks says; "
        "run: ALTER TABLE auth.custody_marks DISABLE ROW LEVEL SECURITY"
    ),
)
CURABLE["row-level security on the KEKs"] = (
    "ALTER TABLE auth.encryption_keks ENABLE ROW LEVEL SECURITY",
    "schema",
    (
        "row-level security hides the KEKs of auth.encryption_keks from who must see that they "
        "are retired; run: ALTER TABLE auth.encryption_keks DISABLE ROW LEVEL SECURITY"
    ),
)


_THEIRS = (
    "CREATE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
)
CURABLE |= {
    "function hollowed": (
        (
            "CREATE OR REPLACE FUNCTION auth.custody_hold_deadline() RETURNS trigger"
            " LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NULL; END'"
        ),
        "schema",
        f"the function auth.custody_hold_deadline is missing or was changed; {MIGRATE}",
    ),
    "trigger hollowed": (
        (
            "DROP TRIGGER encryption_vault_audit_deadline ON auth.encryption_vault_audit;"
            "CREATE CONSTRAINT TRIGGER encryption_vault_audit_deadline"
            " AFTER INSERT ON auth.encryption_vault_audit DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW WHEN (false) EXECUTE FUNCTION auth.custody_hold_deadline()"
        ),
        "schema",
        (
            "the trigger encryption_vault_audit_deadline is missing, disabled or was changed; "
            f"run {AGAIN}"
        ),
    ),
    "trigger of others": (
        (
            f"{_THEIRS} CREATE TRIGGER theirs BEFORE INSERT ON auth.encryption_vault_audit"
            " FOR EACH ROW EXECUTE FUNCTION public.theirs()"
        ),
        "schema",
        (
            "the trigger theirs on auth.encryption_vault_audit is not ours and may swallow rows; "
            "run: DROP TRIGGER theirs ON auth.encryption_vault_audit"
        ),
    ),
    "rule of others": (
        "CREATE RULE theirs AS ON INSERT TO auth.encryption_vault_audit DO INSTEAD NOTHING",
        "schema",
        (
            "the rule theirs on auth.encryption_vault_audit is not ours and may swallow rows; "
            "run: DROP RULE theirs ON auth.encryption_vault_audit"
        ),
    ),
    "no foreign key": (
        "ALTER TABLE auth.encryption_vaults DROP CONSTRAINT encryption_vaults_user_id_fkey",
        "schema",
        (
            "auth.encryption_vaults has no foreign key to auth.users that cascades: a deleted "
            "account would leave its key; run: ALTER TABLE auth.encryption_vaults ADD FOREIGN KEY "
            "(user_id) REFERENCES auth.users (id) ON DELETE CASCADE"
        ),
    ),
    "foreign key on the audit": (
        (
            "ALTER TABLE auth.encryption_vault_audit ADD CONSTRAINT theirs"
            " FOREIGN KEY (user_id) REFERENCES auth.users (id) ON DELETE CASCADE"
        ),
        "schema",
        (
            "the foreign key theirs on auth.encryption_vault_audit would take audit rows along "
            "with an account; run: ALTER TABLE auth.encryption_vault_audit DROP CONSTRAINT theirs"
        ),
    ),
    "audit unlogged": (
        "ALTER TABLE auth.encryption_vault_audit SET UNLOGGED",
        "schema",
        (
            "auth.encryption_vault_audit would be emptied by a crash; "
            "run: ALTER TABLE auth.encryption_vault_audit SET LOGGED"
        ),
    ),
    "replication": (
        "ALTER ROLE {role} REPLICATION",
        "roles",
        "the role {role} may stream all rows; run: ALTER ROLE {role} NOREPLICATION",
    ),
    "server programs": (
        "GRANT pg_execute_server_program TO {role}",
        "roles",
        (
            "the role {role} may act on the server's files or programs; "
            "run: REVOKE pg_execute_server_program FROM {role}"
        ),
    ),
    "triggers": (
        "GRANT TRIGGER ON auth.encryption_vault_audit TO custody_app",
        "roles",
        (
            "the role {role} may TRIGGER auth.encryption_vault_audit; run: REVOKE TRIGGER ON "
            "auth.encryption_vault_audit FROM custody_app, custody_rewrap, PUBLIC, {role}"
        ),
    ),
    "delete users, and by cascade their vaults": (
        "GRANT DELETE ON auth.users TO PUBLIC",
        "roles",
        (
            "the role {role} may DELETE auth.users; run: REVOKE DELETE ON auth.users "
            "FROM custody_app, custody_rewrap, PUBLIC, {role}"
        ),
    ),
    "create in the schema": (
        "GRANT CREATE ON SCHEMA auth TO custody_app",
        "roles",
        (
            "the role {role} may make things in the schema auth; run: REVOKE CREATE ON SCHEMA auth "
            "FROM custody_app, custody_rewrap, PUBLIC, {role}"
        ),
    ),
}


async def test_role_that_may_move_a_row_to_another_user(database: Database) -> None:
    await database.execute("GRANT UPDATE (user_id) ON auth.encryption_vaults TO custody_app")
    found = await problems_of(database.url("custody_app"))
    assert [problem.message.partition(";")[0] for problem in found] == [
        "the role custody_app may UPDATE user_id of auth.encryption_vaults"
    ]


async def test_rewrap_role_that_may_touch_recovery_wraps(database: Database) -> None:
    await database.execute("GRANT UPDATE ON auth.encryption_vaults TO custody_rewrap")
    found = await problems_of(database.url("custody_rewrap"), "custody_rewrap")
    columns = {problem.message.split()[5] for problem in found}
    assert {"recovery_wrapped_mk", "zero_knowledge", "generation", "user_id", "seal"} <= columns


async def test_foreign_users_whose_columns_are_open(database: Database) -> None:
    await database.execute(GIVE_USERS_AWAY)
    await database.execute(
        "ALTER TABLE auth.users ADD COLUMN email TEXT; GRANT SELECT ON auth.users TO PUBLIC"
    )
    found = await problems_of(database.url("custody_app"))
    assert "may SELECT created_at of auth.users" in found[0].message


async def test_superuser_that_acts_as_the_runtime_role(database: Database) -> None:
    found = await problems_of(f"{database.url('postgres')}?options=-c%20role%3Dcustody_app")
    assert [problem.message.partition(";")[0] for problem in found] == [
        "the role postgres is superuser or may take such a role on",
        "the session of postgres acts as custody_app",
    ]


async def test_migrated_database_is_safe(database: Database) -> None:
    duties: tuple[Duty, ...] = ("custody_app", "custody_rewrap")
    for duty in duties:
        assert await problems_of(database.url(duty), duty) == ()
        async with login(database, duty) as (_role, url):
            assert await problems_of(url, duty) == ()


async def test_foreign_table_of_users_is_not_ours_to_judge(database: Database) -> None:
    await database.execute(GIVE_USERS_AWAY)
    assert await problems_of(database.url("custody_app")) == ()


for _right, _table in (
    ("INSERT (target)", "rewrap_runs"),
    ("UPDATE (state)", "rewrap_runs"),
    ("DELETE", "rewrap_runs"),
    ("SELECT (above)", "rewrap_claims"),
    ("DELETE", "rewrap_claims"),
    ("TRUNCATE", "custody_instances"),
):
    _word = _right.partition(" ")[0]
    CURABLE[f"{_right} of {_table}"] = (
        f"GRANT {_right} ON auth.{_table} TO {{role}}",
        "roles",
        (
            f"the role {{role}} may {_word} auth.{_table}, which is not its duty; run: REVOKE "
            f"{_word} ON auth.{_table} FROM custody_app, PUBLIC, {{role}}"
        ),
    )
for _sql in (
    "DROP INDEX auth.rewrap_runs_running",
    (
        "DROP INDEX auth.rewrap_runs_running;"
        "CREATE UNIQUE INDEX rewrap_runs_running ON auth.rewrap_runs (id) WHERE state = 'running'"
    ),
):
    CURABLE[_sql] = (
        _sql,
        "schema",
        (
            "the index rewrap_runs_running is missing or was changed: two re-wrap runs at once "
            f"would do rows twice; {MIGRATE}"
        ),
    )
for _sql in (
    "DROP INDEX auth.encryption_vaults_unsealed_idx",
    (
        "DROP INDEX auth.encryption_vaults_unsealed_idx;"
        "CREATE INDEX encryption_vaults_unsealed_idx ON auth.encryption_vaults (user_id)"
    ),
):
    CURABLE[_sql] = (
        _sql,
        "schema",
        (
            "the index encryption_vaults_unsealed_idx is missing or was changed: each look for "
            f"rows that are not sealed would read all of them; {MIGRATE}"
        ),
    )
for _table in ("encryption_data_keys", "encryption_data_key_wraps"):
    CURABLE[f"{_table} hidden"] = (
        f"ALTER TABLE auth.{_table} ENABLE ROW LEVEL SECURITY",
        "schema",
        (
            f"row-level security hides the data keys of auth.{_table}, without which no row is "
            f"believed; run: ALTER TABLE auth.{_table} DISABLE ROW LEVEL SECURITY"
        ),
    )
    CURABLE[f"{_table} unread"] = (
        f"REVOKE ALL ON auth.{_table} FROM custody_app",
        "roles",
        (
            f"the role {{role}} may not SELECT auth.{_table}: a right of custody_app is missing, "
            f"or not inherited; run {AGAIN}"
        ),
    )
for _name in (
    "custody_announce_data_key",
    "custody_drop_data_key_wrap",
    "custody_end_data_key",
    "custody_forget_kek",
    "custody_promote_data_key",
    "custody_put_data_key_wrap",
    "custody_load_sealed_before",
    "custody_read_unsealed",
    "custody_refuse_retired_keks",
    "custody_reseal_kek",
    "custody_reseal_rows",
    "custody_seal_rows",
):
    CURABLE[f"right to run {_name}"] = (
        f"GRANT EXECUTE ON FUNCTION auth.{_name} TO PUBLIC",
        "roles",
        (
            f"the role {{role}} may run auth.{_name}, which is not its duty; run: REVOKE EXECUTE "
            f"ON FUNCTION auth.{_name} FROM custody_app, PUBLIC, {{role}}"
        ),
    )
CURABLE["right to write the serial"] = (
    "GRANT UPDATE (seal_serial) ON auth.encryption_vaults TO {role}",
    "roles",
    (
        "the role {role} may UPDATE seal_serial of auth.encryption_vaults; run: REVOKE UPDATE ON "
        f"auth.encryption_vaults FROM custody_app, custody_rewrap, PUBLIC, {{role}}, then {AGAIN}"
    ),
)
CURABLE["unlogged instances"] = (
    "ALTER TABLE auth.custody_instances SET UNLOGGED",
    "schema",
    (
        "auth.custody_instances would be emptied by a crash; run: ALTER TABLE "
        "auth.custody_instances SET LOGGED"
    ),
)


# A right of each kind is tried for who logs in; one of them for the others who may have it, too.
_OF_OTHERS = tuple(
    name
    for name in CURABLE
    if name.endswith((" to custody_app", " to PUBLIC"))
    and not name.startswith(("TRUNCATE of encryption_vaults ", "INSERT (kek_id) ", "right to "))
)


@pytest.mark.parametrize(
    "name", some([*CURABLE], *[name for name in CURABLE if name not in _OF_OTHERS][::3])
)
async def test_problem_and_its_cure(module_database: Database, name: str) -> None:
    sql, part, message = CURABLE[name]
    if "INHERIT" in sql + message and MAJOR < 16:
        pytest.skip("PostgreSQL 16: a membership has an INHERIT of its own")
    async with trial(module_database) as made:
        await made.held.execute(sql.format(role=made.role))
        found = await made.problems()
        assert [(problem.part, problem.message) for problem in found] == [
            (part, message.format(role=made.role))
        ]
        await made.cure(found[0])
        assert await made.problems() == ()


@pytest.mark.skipif(MAJOR >= 16, reason="a membership has an INHERIT of its own since 16")
async def test_login_that_inherits_nothing_before_16(module_database: Database) -> None:
    async with trial(module_database) as made:
        await made.held.execute(f"ALTER ROLE {made.role} NOINHERIT")
        (found,) = await made.problems()
        cure = f"run: GRANT custody_app TO {made.role}; ALTER ROLE {made.role} INHERIT"
        assert found.message.endswith(cure)
        await made.cure(found)
        assert await made.problems() == ()


# The same for a login role of custody_rewrap: SQL, the whole message
REWRAP: dict[str, tuple[str, str]] = {
    f"no right to run {name}": (
        f"REVOKE EXECUTE ON FUNCTION auth.{name} FROM custody_rewrap",
        f"the role {{role}} may not run auth.{name}; run {AGAIN}",
    )
    for name in (
        "custody_count_unsealed",
        "custody_find_keks_in_use",
        "custody_put_data_key_wrap",
        "custody_reseal_rows",
        "custody_retire_kek",
        "custody_seal_rows",
    )
}
for _name in (
    "custody_add_user",
    "custody_count_pending",
    "custody_load_vaults",
    "custody_forget_kek",
    "custody_record_events",
):
    for _grantee in ("{role}", "custody_rewrap", "PUBLIC"):
        REWRAP[f"right to run {_name} to {_grantee}"] = (
            f"GRANT EXECUTE ON FUNCTION auth.{_name} TO {_grantee}",
            (
                f"the role {{role}} may run auth.{_name}, which is not its duty; run: REVOKE "
                f"EXECUTE ON FUNCTION auth.{_name} FROM custody_rewrap, PUBLIC, {{role}}"
            ),
        )
for _right in ("INSERT", "INSERT (kek_id)", "UPDATE (state)", "DELETE"):
    _word = _right.partition(" ")[0]
    REWRAP[f"{_right} of the KEKs"] = (
        f"GRANT {_right} ON auth.encryption_keks TO custody_rewrap",
        (
            f"the role {{role}} may {_word} auth.encryption_keks; run: REVOKE {_word} ON "
            "auth.encryption_keks FROM custody_app, custody_rewrap, PUBLIC, {role}"
        ),
    )
for _right, _table in (
    ("DELETE", "rewrap_runs"),
    ("TRUNCATE", "rewrap_claims"),
    ("INSERT (id)", "custody_instances"),
    ("UPDATE (reads)", "custody_instances"),
    ("DELETE", "custody_instances"),
):
    _word = _right.partition(" ")[0]
    REWRAP[f"{_right} of {_table}"] = (
        f"GRANT {_right} ON auth.{_table} TO {{role}}",
        (
            f"the role {{role}} may {_word} auth.{_table}, which is not its duty; run: REVOKE "
            f"{_word} ON auth.{_table} FROM custody_rewrap, PUBLIC, {{role}}"
        ),
    )
REWRAP["SELECT of recovery wraps"] = (
    "GRANT SELECT (recovery_iv, recovery_wrapped_mk) ON auth.encryption_vaults TO custody_rewrap",
    (
        "the role {role} may SELECT recovery_iv of auth.encryption_vaults; run: REVOKE SELECT ON "  # noqa: S608
        "auth.encryption_vaults FROM custody_rewrap, PUBLIC, {role}, then " + AGAIN
    ),
)
for _right, _table in (("UPDATE", "rewrap_runs"), ("INSERT", "rewrap_claims")):
    REWRAP[f"no {_right} of {_table}"] = (
        f"REVOKE {_right} ON auth.{_table} FROM custody_rewrap",
        (
            f"the role {{role}} may not {_right} auth.{_table}: a right of custody_rewrap is "
            f"missing, or not inherited; run {AGAIN}"
        ),
    )


@pytest.mark.parametrize("name", REWRAP)
async def test_problem_of_the_rewrap_role_and_its_cure(
    module_database: Database, name: str
) -> None:
    sql, message = REWRAP[name]
    async with trial(module_database, "custody_rewrap") as made:
        await made.held.execute(sql.format(role=made.role))
        found = await made.problems()
        assert [(problem.part, problem.message) for problem in found] == [
            ("roles", message.format(role=made.role))
        ]
        await made.cure(found[0])
        assert await made.problems() == ()


# Files that put back what a later one has replaced.
OLDER = tuple(f"{one:04}" for one in (*range(2, 10), 11, 12, 13, 14, 15))


@pytest.mark.prove
async def test_one_file_run_again_alone_is_named_with_its_cure(database: Database) -> None:
    """An older file run again undoes a newer one: never unseen, and all of them put it right."""
    url = database.url("custody_app")
    for file in sorted((folder() / "migrations").glob("*.sql")):
        done = database.psql("custody_owner", "-f", str(file))
        # 0007 grants rights on a function that 0011 takes away.
        assert (done.returncode == 0) is not file.stem.startswith("0007"), done.stderr
        found = await problems_of(url)
        assert bool(found) is file.stem.startswith(OLDER), (file.stem, found)
        if found:
            migrate_by_psql(database)
            assert await problems_of(url) == ()


OWNS = (
    "the role {{role}} owns things (first: {}), and a runtime role owns nothing; "
    "set CUSTODY_DATABASE_URL to a login role that is a member of custody_app"
)
UNCURABLE: dict[str, tuple[str, str]] = {
    "superuser": (
        "ALTER ROLE {role} SUPERUSER",
        (
            "the role {role} is superuser or may take such a role on; "
            "set CUSTODY_DATABASE_URL to a login role that is a member of custody_app"
        ),
    ),
    "member of a superuser": (
        "CREATE ROLE {role}_up SUPERUSER; GRANT {role}_up TO {role} WITH INHERIT FALSE",
        (
            "the role {role} is superuser or may take such a role on; "
            "set CUSTODY_DATABASE_URL to a login role that is a member of custody_app"
        ),
    ),
    "right of a group not inherited": (
        (
            "CREATE ROLE {role}_up; GRANT {role}_up TO {role} WITH INHERIT FALSE;"
            "GRANT DELETE ON auth.encryption_vault_audit TO {role}_up"
        ),
        (
            "the role {role} may DELETE auth.encryption_vault_audit; run: REVOKE DELETE ON "
            "auth.encryption_vault_audit FROM custody_app, custody_rewrap, PUBLIC, {role}"
        ),
    ),
    "owns a table": (
        "ALTER TABLE auth.encryption_vaults OWNER TO {role}",
        OWNS.format("table auth.encryption_vaults"),
    ),
    "owns a table by a group": (
        (
            "CREATE ROLE {role}_up; GRANT {role}_up TO {role};"
            "ALTER TABLE auth.encryption_vault_audit OWNER TO {role}_up"
        ),
        OWNS.format("table auth.encryption_vault_audit"),
    ),
    "owns the schema": (
        "ALTER SCHEMA auth OWNER TO {role}",
        OWNS.format("schema auth"),
    ),
    "owns a function": (
        "ALTER FUNCTION auth.custody_count_row_version OWNER TO {role}",
        OWNS.format("function auth.custody_count_row_version()"),
    ),
    "owns the database": (
        "ALTER DATABASE {database} OWNER TO {role}",
        OWNS.format("database {database}"),
    ),
    "users missing": (
        "DROP TABLE auth.users CASCADE",
        f"auth.users is missing; {MIGRATE}",
    ),
    "wrap column missing": (
        "ALTER TABLE auth.encryption_vaults DROP COLUMN wrapped_mk CASCADE",
        f"auth.encryption_vaults has no column wrapped_mk; {MIGRATE}",
    ),
    "state of KEKs missing": (
        "ALTER TABLE auth.encryption_keks DROP COLUMN state",
        f"auth.encryption_keks has no column state; {MIGRATE}",
    ),
    "retirement of KEKs missing": (
        "ALTER TABLE auth.encryption_keks DROP COLUMN retired_at",
        f"auth.encryption_keks has no column retired_at; {MIGRATE}",
    ),
    "function of another owner": (
        "ALTER FUNCTION auth.custody_retire_kek OWNER TO postgres",
        (
            "the policy encryption_vaults_kek_sample is given to another role than its own; "
            f"run {AGAIN}, as the owner"
        ),
    ),
    "audit column missing": (
        "ALTER TABLE auth.encryption_vault_audit DROP COLUMN context",
        f"auth.encryption_vault_audit has no column context; {MIGRATE}",
    ),
}


@pytest.mark.parametrize("name", UNCURABLE)
async def test_problem_among_what_follows_from_it(module_database: Database, name: str) -> None:
    sql, message = UNCURABLE[name]
    if "INHERIT" in sql and MAJOR < 16:
        pytest.skip("PostgreSQL 16: a membership has an INHERIT of its own")
    async with trial(module_database) as made:
        await made.held.execute(sql.format(role=made.role, database=module_database.name))
        found = [problem.message for problem in await made.problems()]
        assert message.format(role=made.role, database=module_database.name) in found
        assert not any(re.search(r"[\r\n]", line) for line in found)


async def test_database_without_the_schema(empty: Database) -> None:
    (found,) = await problems_of(empty.url("custody_app"))
    assert (
        found.message == f"the database {empty.name} has no schema of custody; run: custody migrate"
    )
