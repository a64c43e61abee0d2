"""The registry of KEKs in the database: what is recorded stays, and retired is for good."""
# ruff: noqa: S608 - the SQL is of this file

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from custody.db.migrate import migrate
from custody.db.queries import query
from custody.keks.records import RegisteredKek, RowCount, count_rows, list_keks
from tests.db.connecting import engine_of, owner
from tests.db.kek_registry import (
    REGISTER,
    RETIRE,
    add_row,
    record,
    register,
    retire,
    states,
)
from tests.db.old_service import move
from tests.db.posture import migrations_until
from tests.db.psql import psql
from tests.servers import Database

DENIED = "permission denied"
IN_USE = "SELECT * FROM auth.custody_find_keks_in_use()"


# ── registration ──────────────────────────────────────────────────────────────


async def test_registration_adds_and_completes(database: Database) -> None:
    async def ask(*parameters: Any) -> tuple[Any, ...]:
        async with database.connect("custody_app") as app:
            row = (await app.fetch(REGISTER, *parameters[:-1], None, parameters[-1]))[0]
            return row["fingerprint"], row["state"]

    assert await ask("k1", "vault", "vault:transit/k1", None, False) == (None, "decrypt-only")
    added = await record(database, "k1")
    assert (added["activated_at"], added["retired_at"]) == (None, None)
    # A fingerprint that was not known is filled in; what is not known now takes nothing away.
    assert await ask("k1", None, None, "f1", False) == ("f1", "decrypt-only")
    assert (await record(database, "k1"))["locator"] == "vault:transit/k1"
    assert await ask("k1", "x", "x:k1", None, True) == ("f1", "active")
    row = await record(database, "k1")
    assert (row["backend"], row["locator"]) == ("x", "x:k1")
    assert row["recorded_at"] == added["recorded_at"]
    assert row["activated_at"] > row["recorded_at"]


async def test_registration_of_what_is_known_writes_nothing(database: Database) -> None:
    version = "SELECT xmin::text FROM auth.encryption_keks WHERE kek_id = 'k1'"
    await register(database, "k1", "f1", active=True)
    before = await database.value(version)
    assert await register(database, "k1", "f1", active=True) == ("f1", "active")
    assert await register(database, "k1", None, active=False) == ("f1", "active")
    assert await database.value(version) == before


async def test_other_material_changes_nothing(database: Database) -> None:
    await register(database, "k1", "f1", active=True)
    await register(database, "k2", "f2")
    before = await database.fetch("SELECT * FROM auth.encryption_keks ORDER BY kek_id")
    assert await register(database, "k2", "other", active=True) == ("f2", "decrypt-only")
    assert await database.fetch("SELECT * FROM auth.encryption_keks ORDER BY kek_id") == before


async def test_one_is_active(database: Database) -> None:
    assert await register(database, "k1", "f1", active=True) == ("f1", "active")
    since = (await record(database, "k1"))["activated_at"]
    assert await register(database, "k2", "f2", active=True) == ("f2", "active")
    assert await states(database) == {"k1": "decrypt-only", "k2": "active"}
    assert (await record(database, "k1"))["activated_at"] == since
    assert await register(database, "k1", "f1", active=True) == ("f1", "active")
    assert await states(database) == {"k1": "active", "k2": "decrypt-only"}
    assert (await record(database, "k1"))["activated_at"] > since


async def test_retired_is_never_registered_again(database: Database) -> None:
    await register(database, "k1")
    await register(database, "k2", active=True)
    assert await retire(database, "k1") == "retired"
    before = await record(database, "k1")
    assert await register(database, "k1", "f1", active=True) == (None, "retired")
    assert await record(database, "k1") == before
    assert (await states(database))["k2"] == "active"


async def test_concurrent_registrations_leave_one_active(database: Database) -> None:
    for _ in range(5):
        both = await asyncio.gather(
            *(register(database, f"k{n}", f"f{n}", active=True) for n in range(8))
        )
        assert {state for _, state in both} == {"active"}
        assert sorted((await states(database)).values()) == ["active"] + ["decrypt-only"] * 7


async def test_concurrent_registrations_of_one_agree(database: Database) -> None:
    answers = await asyncio.gather(
        *(register(database, "k1", f"f{n % 3}", active=True) for n in range(9))
    )
    assert len(set(answers)) == 1
    assert answers[0] == ((await record(database, "k1"))["fingerprint"], "active")


async def test_wraps_are_shown_until_the_record_is_sealed(database: Database) -> None:
    """A record that anybody may have made proves nothing: then rows do."""
    await add_row(database, "alice", "k1")
    sample = "SELECT user_id FROM auth.custody_sample_rows('k1')"
    await register(database, "k1")
    assert psql(database, "custody_app", sample) == "alice"
    await register(database, "k1", "f1")
    assert psql(database, "custody_app", sample) == "alice"
    await register(database, "k1", "f1", seal="s1")
    assert psql(database, "custody_app", sample) == ""


# ── who may do what, asked by psql ────────────────────────────────────────────

ALLOWED = [
    ("custody_app", "SELECT state FROM auth.custody_register_kek('k', 'e', 'e:k', 'f', 's', true)"),
    ("custody_app", "SELECT count(*) FROM auth.custody_find_keks_in_use()"),
    ("custody_app", "SELECT count(*) FROM auth.encryption_keks"),
    ("custody_rewrap", "SELECT auth.custody_retire_kek('k')"),
    ("custody_rewrap", "SELECT count(*) FROM auth.custody_find_keks_in_use()"),
    ("custody_rewrap", "SELECT count(*) FROM auth.encryption_keks"),
]
REFUSED = [
    ("custody_app", "SELECT auth.custody_retire_kek('k')"),
    *(
        (role, sql)
        for role in ("custody_app", "custody_rewrap")
        for sql in (
            "INSERT INTO auth.encryption_keks (kek_id) VALUES ('k')",
            "INSERT INTO auth.encryption_keks (kek_id, fingerprint) VALUES ('k', 'f')",
            "UPDATE auth.encryption_keks SET state = 'active'",
            "DELETE FROM auth.encryption_keks",
            "TRUNCATE auth.encryption_keks",
            "BEGIN; LOCK TABLE auth.encryption_keks IN EXCLUSIVE MODE",
            "ALTER TABLE auth.encryption_vaults DISABLE TRIGGER ALL",
            "SET session_replication_role = replica",
        )
    ),
]


@pytest.mark.parametrize(("role", "sql"), ALLOWED)
async def test_allowed(database: Database, role: str, sql: str) -> None:
    assert "ERROR" not in psql(database, role, sql)


@pytest.mark.parametrize(("role", "sql"), REFUSED)
async def test_refused(database: Database, role: str, sql: str) -> None:
    answer = psql(database, role, sql)
    assert DENIED in answer or "must be owner" in answer, answer


# ── retirement ────────────────────────────────────────────────────────────────


async def test_what_retirement_answers(database: Database) -> None:
    await register(database, "k1", "f1", active=True)
    await register(database, "k2", "f2")
    await register(database, "k3", "f3")
    await add_row(database, "alice", "k2")
    await add_row(database, "bob", "rows-only")
    await add_row(database, "zoe", "zk-only", wrap=None)
    await add_row(database, "zed", "k3", wrap=None)
    assert await retire(database, "k1") == "active"
    assert await retire(database, "k2") == "in-use"
    assert await retire(database, "rows-only") == "in-use"
    assert await retire(database, "nothing") == "unknown"
    assert await retire(database, "") == "unknown"
    before = await states(database)
    assert before == {"k1": "active", "k2": "decrypt-only", "k3": "decrypt-only"}
    # Rows in zero-knowledge mode keep the kek_id and hold nothing of it.
    assert await retire(database, "k3") == "retired"
    assert await retire(database, "zk-only") == "retired"
    assert await retire(database, "k3") == "already-retired"
    assert await states(database) == before | {"k3": "retired", "zk-only": "retired"}
    assert (await record(database, "k3"))["retired_at"] is not None
    # Nothing that it looked at stays open behind it.
    left = f"BEGIN; {RETIRE.replace('$1', repr('k2'))}; SELECT count(*) FROM auth.encryption_vaults"
    assert psql(database, "custody_owner", left).split() == ["in-use", "0"]


async def test_retirement_in_an_older_snapshot_is_refused(database: Database) -> None:
    await register(database, "k1")
    levels: tuple[Any, ...] = ("repeatable_read", "serializable")
    for level in levels:
        async with database.connect("custody_rewrap") as connection:
            transaction = connection.transaction(isolation=level)
            await transaction.start()
            with pytest.raises(asyncpg.InvalidTransactionStateError, match="READ COMMITTED"):
                await connection.fetchval(RETIRE, "k1")
            await transaction.rollback()


@pytest.mark.parametrize("role", ["postgres", "custody_owner"])
@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE auth.encryption_keks SET state = 'active', retired_at = NULL WHERE kek_id = 'old'",
        "UPDATE auth.encryption_keks SET retired_at = now() WHERE kek_id = 'old'",
        "UPDATE auth.encryption_keks SET kek_id = 'other' WHERE kek_id = 'old'",
        "UPDATE auth.encryption_keks SET fingerprint = 'x' WHERE kek_id = 'k1'",
        "UPDATE auth.encryption_keks SET fingerprint = NULL WHERE kek_id = 'k1'",
        "UPDATE auth.encryption_keks SET kek_id = 'other' WHERE kek_id = 'k1'",
        "DELETE FROM auth.encryption_keks WHERE kek_id = 'old'",
        "DELETE FROM auth.encryption_keks WHERE kek_id = 'k1'",
        "TRUNCATE auth.encryption_keks",
        (
            "INSERT INTO auth.encryption_keks (kek_id) VALUES ('old')"
            " ON CONFLICT (kek_id) DO UPDATE SET state = 'active', retired_at = NULL"
        ),
    ],
)
async def test_a_record_stays_whoever_writes(database: Database, role: str, sql: str) -> None:
    await register(database, "k1", "f1", seal="s1", active=True)
    await register(database, "old", "f0")
    assert await retire(database, "old") == "retired"
    before = await database.fetch("SELECT * FROM auth.encryption_keks ORDER BY kek_id")
    assert "23001" in psql(database, role, sql)
    assert await database.fetch("SELECT * FROM auth.encryption_keks ORDER BY kek_id") == before


@pytest.mark.parametrize(
    "columns",
    ["state = 'gone'", "state = 'retired'", "retired_at = now()"],
)
async def test_checks_of_the_registry(database: Database, columns: str) -> None:
    await register(database, "k1")
    answer = psql(database, "postgres", f"UPDATE auth.encryption_keks SET {columns}")
    assert 'violates check constraint "encryption_keks_' in answer


# ── which KEKs are in use ─────────────────────────────────────────────────────


@pytest.mark.parametrize("role", ["custody_app", "custody_rewrap"])
async def test_keks_in_use(database: Database, role: str) -> None:
    async with database.connect(role) as connection:
        assert await connection.fetch(IN_USE) == []
        for user, kek_id in (("a", "k2"), ("b", "k1"), ("c", "k2"), ("d", "vault:t/k:v10")):
            await add_row(database, user, kek_id)
        await add_row(database, "zoe", "k3", wrap=None)
        await register(database, "registered-only")
        rows = await connection.fetch(query("list_keks_in_use"))
        assert [row["kek_id"] for row in rows] == ["k1", "k2", "vault:t/k:v10"]


@pytest.mark.parametrize("role", ["custody_app", "custody_owner"])
async def test_keks_in_use_leave_nothing_open(database: Database, role: str) -> None:
    await add_row(database, "alice", "k1")
    count = "SELECT count(*) FROM auth.encryption_vaults"
    asked = psql(database, role, f"BEGIN; {IN_USE}; {count}")
    assert asked.split() == ["k1|t", "0"]
    failed = psql(
        database, role, f"BEGIN; SAVEPOINT s; {IN_USE}; ROLLBACK TO s; {count}; COMMIT; {count}"
    )
    assert failed.split() == ["k1|t", "0", "0"]


async def test_a_runtime_role_opens_nothing_by_the_owners_settings(database: Database) -> None:
    await add_row(database, "alice", "k1")
    settings = ("scans_kek_ids", "looks_for_seals", "counts_unsealed", "brings_over")
    for setting in (
        *(f"custody.{name} = 'on'" for name in settings),
        "custody.sampled_kek_id = 'k1'",
    ):
        sql = f"SET {setting}; SELECT count(*) FROM auth.encryption_vaults"
        assert psql(database, "custody_app", sql) == "0"


async def test_keks_in_use_probe_the_index_once_a_kek(database: Database) -> None:
    """The plan under the owner's policy, whose check must not come before the index."""
    await database.execute(
        "INSERT INTO auth.users (id) SELECT 'u' || n FROM generate_series(1, 3000) AS n;"
        "INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv, kek_id)"
        " SELECT 'u' || n, 'w', '', 'k' || n % 3 FROM generate_series(1, 3000) AS n;"
        "ANALYZE auth.encryption_vaults"
    )
    source = await database.value(
        "SELECT prosrc FROM pg_proc WHERE proname = 'custody_find_keks_in_use'"
    )
    statement = source.partition("RETURN QUERY")[2].partition(";")[0]
    async with database.connect("custody_owner") as owner, owner.transaction():
        await owner.execute("SELECT set_config('custody.scans_kek_ids', 'on', true)")
        lines = await owner.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {statement}")
    plan = "\n".join(line[0] for line in lines)
    assert plan.count("using encryption_vaults_rewrap_idx") == 2, plan
    assert "Index Cond: (kek_id > found" in plan
    assert "Seq Scan on encryption_vaults" not in plan
    assert "Rows Removed by Filter: 1\n" in plan  # of the walk's end, and of no scan


# ── older databases ───────────────────────────────────────────────────────────


@pytest.mark.prove
async def test_rows_of_the_old_service_are_counted(empty: Database) -> None:
    await move(empty)
    async with engine_of(empty.url("custody_rewrap")) as engine:
        assert await list_keks(engine) == (RegisteredKek("env-v1", "unregistered"),)
        assert await count_rows(engine) == {"env-v1": RowCount(18, 18, 0, old_format=18, legacy=18)}
    assert await retire(empty, "env-v1") == "in-use"


async def test_recorded_fingerprints_stay(empty: Database, tmp_path: Path) -> None:
    await migrate(owner(empty), migrations_until("0005", tmp_path))
    await empty.execute(
        "INSERT INTO auth.encryption_keks (kek_id, fingerprint) VALUES ('env-v1', 'f1')"
    )
    await migrate(owner(empty))
    row = await record(empty, "env-v1")
    assert (row["fingerprint"], row["state"], row["locator"]) == ("f1", "decrypt-only", None)
    assert await register(empty, "env-v1", "other", active=True) == ("f1", "decrypt-only")
    assert await register(empty, "env-v1", "f1", active=True) == ("f1", "active")
