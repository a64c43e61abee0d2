"""What each role can see and do, asked by psql with nothing of ours in between."""
# ruff: noqa: S608 - the SQL is of this file

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from custody.development.postgres import EmbeddedPostgres
from tests.client import Client, client_session
from tests.db.breaking import forget_keks
from tests.db.psql import DENIED, POLICY, psql
from tests.servers import Database, daemon_here, new_database
from tests.tokens import Issuer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def template(
    module_database: Database, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Vaults of alice, bob (with a recovery wrap) and zoe (zero-knowledge), with audit rows."""
    folder = tmp_path_factory.mktemp("filled")
    async with (
        daemon_here(module_database, issuer, folder) as daemon,
        client_session() as session,
    ):
        alice, bob, zoe = (Client(daemon, session, user) for user in ("alice", "bob", "zoe"))
        for client in (alice, bob, zoe):
            assert (await client.init()).status == 200
        for client in (bob, zoe):
            assert (await client.set_recovery("A" * 64, "A" * 16)).status == 200
        assert (await zoe.enable_zk()).status == 200
    return module_database.name


@pytest.fixture
async def filled(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[Database]:
    """A copy of it, for one test."""
    async with new_database(postgres, template) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def refusing(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[Database]:
    """A copy of it, for all tests of what is refused."""
    async with new_database(postgres, template) as made:
        yield made


NOBODY = (None, "", "mallory")


@pytest.mark.parametrize("user", NOBODY)
async def test_app_sees_no_foreign_row(filled: Database, user: str | None) -> None:
    for table, column in (("encryption_vaults", "user_id"), ("users", "id")):
        count = f"SELECT count({column}) FROM auth.{table}"
        assert psql(filled, "custody_app", count, user) == "0"
    audit = "SELECT count(*) FROM auth.encryption_vault_audit"
    assert psql(filled, "custody_app", audit, user) == "0"
    assert psql(filled, "custody_app", audit, "bob") == "2"
    # Not what seals it.
    for column in ("state", "seal"):
        refused = f"SELECT {column} FROM auth.encryption_vault_audit"
        assert DENIED in psql(filled, "custody_app", refused, user)


async def test_app_sees_its_own_row(filled: Database) -> None:
    for table, column in (("encryption_vaults", "user_id"), ("users", "id")):
        rows = f"SELECT {column} FROM auth.{table}"
        assert psql(filled, "custody_app", rows, "alice") == "alice"


async def test_setting_of_a_transaction_ends_with_it(filled: Database) -> None:
    sql = (
        "BEGIN; SELECT set_config('app.current_user_id', 'alice', true);"
        "SELECT user_id FROM auth.encryption_vaults; COMMIT;"
        "SELECT 'then ' || count(*) FROM auth.encryption_vaults"
    )
    assert psql(filled, "custody_app", sql).splitlines() == ["alice", "alice", "then 0"]


@pytest.mark.parametrize("user", NOBODY)
async def test_app_changes_no_foreign_row(filled: Database, user: str | None) -> None:
    before = await filled.fetch("SELECT * FROM auth.encryption_vaults ORDER BY user_id")
    changed = (
        "WITH changed AS (UPDATE auth.encryption_vaults SET wrapped_mk = 'x', wrap_iv = ''"
        " WHERE user_id = 'alice' RETURNING 1) SELECT count(*) FROM changed"
    )
    assert psql(filled, "custody_app", changed, user) == "0"
    inserted = psql(
        filled,
        "custody_app",
        "INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv) VALUES ('carol','x','')",
        user,
    )
    assert POLICY in inserted
    assert await filled.fetch("SELECT * FROM auth.encryption_vaults ORDER BY user_id") == before


@pytest.mark.parametrize("user", NOBODY)
async def test_app_writes_nothing_in_anothers_name(filled: Database, user: str | None) -> None:
    audit = (
        "INSERT INTO auth.encryption_vault_audit (id, user_id, action, status)"
        " VALUES ('a', 'alice', 'fetch', 200)"
    )
    assert POLICY in psql(filled, "custody_app", audit, user)
    assert POLICY in psql(
        filled, "custody_app", "INSERT INTO auth.users (id) VALUES ('carol')", user
    )


async def test_app_cannot_give_its_row_away(filled: Database) -> None:
    sql = "UPDATE auth.encryption_vaults SET user_id = 'bob'"
    assert DENIED in psql(filled, "custody_app", sql, "alice")


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE auth.encryption_vault_audit SET status = 200",
        "DELETE FROM auth.encryption_vault_audit",
        "TRUNCATE auth.encryption_vault_audit",
        "DELETE FROM auth.encryption_vaults",
        "TRUNCATE auth.encryption_vaults",
        "TRUNCATE auth.users CASCADE",
        "DELETE FROM auth.users",
        "UPDATE auth.users SET id = 'x'",
        "UPDATE auth.encryption_vaults SET row_version = 1",
        "UPDATE auth.encryption_vaults SET created_at = now()",
        "UPDATE auth.encryption_vaults SET seal_serial = 0",
        "INSERT INTO auth.encryption_vaults (user_id, seal, seal_serial) VALUES ('c', 's', 9)",
        "INSERT INTO auth.encryption_keks (kek_id) VALUES ('x')",
        "UPDATE auth.encryption_keks SET fingerprint = 'x'",
        "UPDATE auth.encryption_keks SET state = 'retired', retired_at = now()",
        "DELETE FROM auth.encryption_keks",
        "TRUNCATE auth.encryption_keks",
        (
            "INSERT INTO auth.encryption_vault_audit (id, user_id, action, status, created_at)"
            " VALUES ('a', 'alice', 'fetch', 200, '2020-01-01')"
        ),
        "SELECT * FROM auth.custody_migrations",
        "ALTER TABLE auth.encryption_vaults NO FORCE ROW LEVEL SECURITY",
        "CREATE TABLE auth.mine ()",
        "SET ROLE custody_owner",
        "SET SESSION AUTHORIZATION postgres",
    ],
)
@pytest.mark.parametrize("role", ["custody_app", "custody_rewrap"])
async def test_refused_to_runtime_roles(refusing: Database, role: str, sql: str) -> None:
    before = await refusing.value("SELECT count(*) FROM auth.encryption_vault_audit")
    answer = psql(refusing, role, sql, "alice")
    assert DENIED in answer or "must be owner" in answer, answer
    assert await refusing.value("SELECT count(*) FROM auth.encryption_vault_audit") == before


SAMPLE = "SELECT user_id FROM auth.custody_sample_rows('env-v1') ORDER BY 1"


async def test_samples_show_only_until_the_record_is_sealed(filled: Database) -> None:
    await filled.execute("UPDATE auth.encryption_keks SET seal = 's'")
    assert psql(filled, "custody_app", SAMPLE) == ""
    await forget_keks(filled)
    assert psql(filled, "custody_app", SAMPLE).split() == ["alice", "bob"]  # zoe has no wrap
    other = "SELECT count(*) FROM auth.custody_sample_rows('env-v2')"
    assert psql(filled, "custody_app", other) == "0"
    # What the function asked for is not left open behind it, nor can the caller ask by itself.
    for sql in (
        f"BEGIN; {SAMPLE}; SELECT count(*) FROM auth.encryption_vaults",
        "SET custody.sampled_kek_id = 'env-v1'; SELECT count(*) FROM auth.encryption_vaults",
    ):
        assert psql(filled, "custody_app", sql).split()[-1] == "0"
    # Nor for the owner, who alone could read by it.
    left = f"BEGIN; {SAMPLE}; SELECT count(*) FROM auth.encryption_vaults"
    assert psql(filled, "custody_owner", left).split() == ["alice", "bob", "0"]
    # The worker holds KEKs against the registry as the daemon does; it sees all rows anyway.
    assert psql(filled, "custody_rewrap", SAMPLE).split() == ["alice", "bob"]


async def test_rewrap_sees_all_rows_but_not_all_columns(filled: Database) -> None:
    rows = "SELECT user_id FROM auth.encryption_vaults ORDER BY 1"
    assert psql(filled, "custody_rewrap", rows).split() == ["alice", "bob", "zoe"]
    for column in ("recovery_wrapped_mk", "recovery_iv", "recovery_set_at"):
        sql = f"SELECT {column} FROM auth.encryption_vaults"
        assert DENIED in psql(filled, "custody_rewrap", sql)
    for table in ("users", "encryption_vault_audit"):
        assert DENIED in psql(filled, "custody_rewrap", f"SELECT * FROM auth.{table}")


async def test_rewrap_replaces_wraps(filled: Database) -> None:
    sql = (
        "UPDATE auth.encryption_vaults SET wrapped_mk = 'w', wrap_iv = '', format_version = 3,"
        " kek_id = 'k', rewrapped_at = now(), quarantined_at = NULL, quarantine_reason = NULL"
        " WHERE user_id = 'alice' RETURNING row_version"
    )
    assert psql(filled, "custody_rewrap", sql) == "2"


@pytest.mark.parametrize(
    "column",
    [
        "recovery_wrapped_mk = 'x', recovery_iv = ''",
        "recovery_set_at = now()",
        "user_id = 'carol'",
        "zero_knowledge = true",
        "generation = 9",
        "key_check = 'x'",
        "rotated_at = now()",
        "seal = 's'",
        "seal_serial = 0",
    ],
)
async def test_rewrap_touches_nothing_else(filled: Database, column: str) -> None:
    sql = f"UPDATE auth.encryption_vaults SET {column} WHERE user_id = 'bob'"
    assert DENIED in psql(filled, "custody_rewrap", sql)


async def test_rewrap_cannot_take_a_wrap_away(filled: Database) -> None:
    # bob has a recovery wrap, so no CHECK would stop it.
    sql = "UPDATE auth.encryption_vaults SET wrapped_mk = NULL, wrap_iv = NULL"
    assert POLICY in psql(filled, "custody_rewrap", f"{sql} WHERE user_id = 'bob'")


async def test_rewrap_cannot_touch_a_zero_knowledge_row(filled: Database) -> None:
    sql = (
        "WITH changed AS (UPDATE auth.encryption_vaults SET wrapped_mk = 'x', wrap_iv = ''"
        " WHERE user_id = 'zoe' RETURNING 1) SELECT count(*) FROM changed"
    )
    assert psql(filled, "custody_rewrap", sql) == "0"


async def test_rewrap_makes_no_row(filled: Database) -> None:
    for table in ("encryption_vaults (user_id)", "users (id)"):
        sql = f"INSERT INTO auth.{table} VALUES ('carol')"
        assert DENIED in psql(filled, "custody_rewrap", sql)


async def test_rewrap_audits_its_own_actions_only(filled: Database) -> None:
    sql = (
        "INSERT INTO auth.encryption_vault_audit (id, user_id, action, status)"
        " VALUES ('{0}', '{1}', '{0}', 200)"
    )
    assert psql(filled, "custody_rewrap", sql.format("rewrap_run", "")) == ""
    assert psql(filled, "custody_rewrap", sql.format("rewrap_failed", "alice")) == ""
    for user in (None, "alice"):
        assert POLICY in psql(filled, "custody_rewrap", sql.format("fetch", "alice"), user)


@pytest.mark.parametrize("user", NOBODY)
async def test_owner_sees_nothing_without_a_setting(filled: Database, user: str | None) -> None:
    for table in ("encryption_vaults", "encryption_vault_audit", "users"):
        assert psql(filled, "custody_owner", f"SELECT count(*) FROM auth.{table}", user) == "0"


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("has_wrap", "wrapped_mk = NULL, wrap_iv = NULL"),
        ("wrap_iv_pair", "wrap_iv = NULL"),
        ("wrap_iv_pair", "recovery_iv = 'x'"),
        ("wrap_iv_pair", "recovery_wrapped_mk = 'x'"),
        ("zk_consistency", "recovery_wrapped_mk = 'x', recovery_iv = 'x', zero_knowledge = true"),
        ("zk_consistency", "zero_knowledge = true"),
    ],
)
async def test_checks_by_name(filled: Database, name: str, columns: str) -> None:
    sql = f"UPDATE auth.encryption_vaults SET {columns} WHERE user_id = 'alice'"
    answer = psql(filled, "custody_app", sql, "alice")
    assert f'violates check constraint "encryption_vaults_{name}"' in answer


async def test_empty_nonce_is_a_nonce(filled: Database) -> None:
    sql = "UPDATE auth.encryption_vaults SET wrap_iv = ''"
    assert psql(filled, "custody_app", sql, "alice") == ""


async def test_row_version_is_counted_whoever_writes(filled: Database) -> None:
    version = "SELECT row_version FROM auth.encryption_vaults WHERE user_id = 'alice'"
    before = await filled.value(version)
    sql = "UPDATE auth.encryption_vaults SET rotated_at = now()"
    assert psql(filled, "custody_app", sql, "alice") == ""
    assert psql(filled, "postgres", f"{sql}, row_version = 1 WHERE user_id = 'alice'") == ""
    assert await filled.value(version) == before + 2


AUDITED = (
    "BEGIN; SET LOCAL app.current_user_id = 'alice';"
    "SELECT set_config('app.deadline',"
    " (extract(epoch FROM clock_timestamp()) + {seconds})::text, true);"
    "UPDATE auth.encryption_vaults SET rotated_at = now();"
    "INSERT INTO auth.encryption_vault_audit (id, user_id, action, status)"
    " VALUES ('late', 'alice', 'rotate', 200); {sleep} SELECT 'before commit'; COMMIT"
)


@pytest.mark.parametrize(
    ("seconds", "sleep", "commits"),
    [(-1, "", False), (60, "", True), (0.2, "SELECT pg_sleep(0.4);", False)],
)
async def test_nothing_commits_after_the_deadline(
    filled: Database, seconds: float, sleep: str, commits: bool
) -> None:
    done = filled.psql(
        "custody_app", "-qAt", text=AUDITED.format(seconds=seconds, sleep=sleep) + ";\n"
    )
    assert "before commit" in done.stdout
    assert ("the deadline of this request has passed" in done.stderr) is not commits
    late = "SELECT count(*) FROM auth.encryption_vault_audit WHERE id = 'late'"
    assert await filled.value(late) == commits
    rotated = "SELECT rotated_at IS NOT NULL FROM auth.encryption_vaults WHERE user_id = 'alice'"
    assert await filled.value(rotated) is commits


async def test_no_deadline_is_no_limit(filled: Database) -> None:
    sql = (
        "INSERT INTO auth.encryption_vault_audit (id, user_id, action, status)"
        " VALUES ('a', 'alice', 'fetch', 200)"
    )
    assert psql(filled, "custody_app", sql, "alice") == ""


async def test_account_deletion_cascades_past_row_level_security(filled: Database) -> None:
    """As the owner under FORCE, without a setting: the vault of a deleted account never stays."""
    await filled.execute("ALTER TABLE auth.users NO FORCE ROW LEVEL SECURITY")
    assert psql(filled, "custody_owner", "DELETE FROM auth.users WHERE id = 'alice'") == ""
    left = await filled.fetch("SELECT user_id FROM auth.encryption_vaults ORDER BY 1")
    assert [row["user_id"] for row in left] == ["bob", "zoe"]
