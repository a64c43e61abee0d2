"""What the worker's role can't do, by psql: no more than the wrap columns, and its own records."""
# ruff: noqa: S608 - the SQL is of this file

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from custody.development.postgres import EmbeddedPostgres
from tests.db.psql import psql
from tests.rewrap.kit import fill, go_zk, keyring, rewrap, rows_of
from tests.servers import Database, new_database

DENIED, HIDDEN = "42501: permission denied", "violates row-level security"
VAULTS = "auth.encryption_vaults"
AUDIT = "auth.encryption_vault_audit"
EVENT = f"INSERT INTO {AUDIT} (id, user_id, action, status) VALUES ('x', '{{}}', '{{}}', 200)"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(module_database: Database) -> Database:
    """Vaults after a run, for those who can't change anything."""
    await fill(module_database, 3)
    await go_zk(module_database, "user-000002")
    await rewrap(module_database, keyring())
    return module_database


@pytest.fixture
async def own(postgres: EmbeddedPostgres, filled: Database) -> AsyncIterator[Database]:
    """A copy of it, for one test."""
    async with new_database(postgres, filled.name) as made:
        yield made


FORBIDDEN = [
    *(
        f"UPDATE {VAULTS} SET {column} = {value}"
        for column, value in (
            ("user_id", "'other'"),
            ("recovery_wrapped_mk", "'x'"),
            ("recovery_iv", "'x'"),
            ("recovery_format_version", "2"),
            ("recovery_set_at", "now()"),
            ("zero_knowledge", "true"),
            ("generation", "9"),
            ("key_check", "'x'"),
            ("row_version", "9"),
            ("created_at", "now()"),
            ("rotated_at", "now()"),
        )
    ),
    *(
        f"SELECT {column} FROM {VAULTS}"
        for column in ("*", "recovery_wrapped_mk", "recovery_iv", "recovery_set_at")
    ),
    f"INSERT INTO {VAULTS} (user_id, wrapped_mk, wrap_iv) VALUES ('user-000000', 'x', '')",
    f"DELETE FROM {VAULTS}",
    f"TRUNCATE {VAULTS}",
    f"SELECT * FROM {AUDIT}",
    f"UPDATE {AUDIT} SET action = 'x'",
    f"DELETE FROM {AUDIT}",
    f"TRUNCATE {AUDIT}",
    (
        f"INSERT INTO {AUDIT} (id, user_id, action, status, created_at)"
        " VALUES ('x', '', 'rewrap_run', 200, '2020-01-01')"
    ),
    "SELECT * FROM auth.users",
    "DELETE FROM auth.users",
    "UPDATE auth.encryption_keks SET state = 'active'",
    "INSERT INTO auth.encryption_keks (kek_id) VALUES ('x')",
    "DELETE FROM auth.rewrap_runs",
    "TRUNCATE auth.rewrap_runs CASCADE",
    "UPDATE auth.rewrap_runs SET target = 'x'",
    "UPDATE auth.rewrap_runs SET started_by = 'x'",
    "UPDATE auth.rewrap_claims SET up_to = 'x'",
    (
        "INSERT INTO auth.custody_instances (id, host, process, writes_uri, reads)"
        " VALUES ('x', 'x', 1, 'x', '{}')"
    ),
    "UPDATE auth.custody_instances SET reads = '{}'",
    "DELETE FROM auth.custody_instances",
    "SELECT auth.custody_add_user('x')",
]


@pytest.mark.parametrize("sql", FORBIDDEN)
async def test_forbidden(filled: Database, sql: str) -> None:
    before = await rows_of(filled)
    assert DENIED in psql(filled, "custody_rewrap", sql)
    assert await rows_of(filled) == before


@pytest.mark.parametrize("action", ["fetch", "init", "rotate", "zk_enable", "REWRAP_RUN", ""])
async def test_no_audit_rows_of_users_actions(filled: Database, action: str) -> None:
    for user in ("user-000000", ""):
        assert HIDDEN in psql(filled, "custody_rewrap", EVENT.format(user, action))


async def test_its_own_audit_rows(own: Database) -> None:
    assert psql(own, "custody_rewrap", EVENT.format("user-000000", "rewrap_failed")) == ""
    assert await own.audit("user-000000") == [("rewrap_failed", None, 200)]


@pytest.mark.prove
async def test_zero_knowledge_rows_and_missing_wraps(own: Database) -> None:
    before = await rows_of(own)
    for sql, part in (
        (f"UPDATE {VAULTS} SET wrapped_mk = 'x', wrap_iv = '' WHERE user_id = 'user-000002'", ""),
        (f"UPDATE {VAULTS} SET quarantined_at = now() WHERE user_id = 'user-000002'", ""),
        (f"UPDATE {VAULTS} SET wrapped_mk = NULL, wrap_iv = NULL", HIDDEN),
    ):
        said = psql(own, "custody_rewrap", sql)
        assert said == "" if not part else part in said
    assert await rows_of(own) == before


APP_FORBIDDEN = [
    (
        "INSERT INTO auth.rewrap_runs (target, everything, started_by, sources, total)"
        " VALUES ('x', false, 'x', '{}', 0)"
    ),
    "UPDATE auth.rewrap_runs SET state = 'done'",
    "DELETE FROM auth.rewrap_runs",
    "SELECT * FROM auth.rewrap_claims",
    "DELETE FROM auth.rewrap_claims",
    "UPDATE auth.rewrap_claims SET owner = 'x'",
    (
        "INSERT INTO auth.rewrap_claims (run_id, owner, kek_id, format, above, up_to)"
        " VALUES (1, 'x', 'x', 2, '', '')"
    ),
    "TRUNCATE auth.custody_instances",
    "SELECT auth.custody_retire_kek('x')",
]


@pytest.mark.parametrize("sql", APP_FORBIDDEN)
async def test_the_daemons_role_has_no_hand_in_runs(filled: Database, sql: str) -> None:
    assert DENIED in psql(filled, "custody_app", sql)
