"""Rows that are not sealed: counted, shown to the worker, and sealed, each exactly once."""
# ruff: noqa: S608 - the SQL is of this file

import asyncio
import hashlib
from typing import Any

import pytest

from custody.db.queries import query
from custody.keks.diagnostics import examine_rows
from custody.keks.legacy import Unsealed, count_unsealed
from kek_backends.findings import Verdict
from tests.db.connecting import engine_of
from tests.db.data_keys import add_sealed_row
from tests.db.format2_database import move
from tests.db.old_service import move as move_old
from tests.db.psql import psql
from tests.servers import Database

COLUMNS = (
    "SELECT user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_check, seal, seal_serial,"
    " generation, zero_knowledge, recovery_wrapped_mk, recovery_set_at FROM auth.encryption_vaults"
    " ORDER BY user_id"
)


async def add_rows(database: Database) -> None:
    """One of each kind that is not sealed, and one that is."""
    await database.execute(
        "INSERT INTO auth.users (id) SELECT unnest(ARRAY['one', 'two', 'three', 'zoe']);"
        "INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version,"
        " key_check) VALUES ('one', 'w1', 'i1', 1, NULL), ('two', 'w2', 'i2', 2, 'c2'),"
        " ('three', 'w3', 'i3', 3, 'c3');"
        "INSERT INTO auth.encryption_vaults (user_id, recovery_wrapped_mk, recovery_iv,"
        " zero_knowledge) VALUES ('zoe', 'ré', 'ri', true)"
    )
    await add_sealed_row(database, "sealed", "s")


async def read(database: Database, kek_id: str, kind: int, **bounds: Any) -> list[Any]:
    above, up_to, most = bounds.get("above", ""), bounds.get("up_to"), bounds.get("most", 100)
    async with database.connect("custody_rewrap") as worker:
        return list(await worker.fetch(query("read_unsealed"), kek_id, kind, above, up_to, most))


async def seal(database: Database, *rows: tuple[Any, ...]) -> int:
    """Seal rows: user, row version, wrap, nonce, kek_id, key check value, seal."""
    async with database.connect("custody_rewrap") as worker:
        began = await worker.fetchval("SELECT now()")
        columns = map(list, zip(*rows, strict=True))
        return int(await worker.fetchval(query("seal_rows"), *columns, began))


@pytest.fixture(params=["custody_owner", pytest.param("postgres", marks=pytest.mark.prove)])
async def rows(request: pytest.FixtureRequest, empty: Database) -> Database:
    """A database whose functions an ordinary role owns, or superuser, as where one has migrated."""
    await move_old(empty, request.param)
    await empty.execute("DELETE FROM auth.encryption_vaults")
    await empty.execute(
        "ALTER TABLE auth.users ALTER COLUMN name DROP NOT NULL, ALTER email DROP NOT NULL"
    )
    await add_rows(empty)
    return empty


@pytest.mark.prove
async def test_each_kind_has_its_page(rows: Database) -> None:
    assert [row["user_id"] for row in await read(rows, "env-v1", 1)] == ["one"]
    (two,) = await read(rows, "env-v1", 2)
    assert (two["user_id"], two["wrapped_mk"], two["key_check"]) == ("two", "w2", "c2")
    assert two["recovery_digest"] is None
    assert await read(rows, "other", 2) == []
    rest = await read(rows, "", 0)
    assert [row["user_id"] for row in rest] == ["three", "zoe"]
    digest = hashlib.sha256("3:ré2:ri".encode()).hexdigest()
    assert (rest[1]["recovery_digest"], rest[1]["zero_knowledge"]) == (digest, True)
    assert [row["user_id"] for row in await read(rows, "", 0, most=1)] == ["three"]
    assert [row["user_id"] for row in await read(rows, "", 0, above="three")] == ["zoe"]
    assert [row["user_id"] for row in await read(rows, "", 0, up_to="three")] == ["three"]
    await rows.execute("UPDATE auth.encryption_vaults SET quarantined_at = now()")
    assert await read(rows, "", 0) == []


@pytest.mark.prove
async def test_rows_are_sealed(rows: Database) -> None:
    before = {row["user_id"]: row for row in await rows.fetch(COLUMNS)}
    (two,), (_, zoe) = await read(rows, "env-v1", 2), await read(rows, "", 0)
    assert (
        await seal(
            rows,
            ("two", two["row_version"], "new", "iv", "now", "other check", "s-two"),
            ("zoe", zoe["row_version"], None, None, None, None, "s-zoe"),
        )
        == 2
    )
    after = {row["user_id"]: row for row in await rows.fetch(COLUMNS)}
    assert dict(after["two"]) == dict(before["two"]) | {
        "wrapped_mk": "new",
        "wrap_iv": "iv",
        "format_version": 3,
        "kek_id": "now",
        "seal": "s-two",
        "seal_serial": 1,
    }
    # Of a row in zero-knowledge mode nothing else changes.
    assert dict(after["zoe"]) == dict(before["zoe"]) | {"seal": "s-zoe", "seal_serial": 1}
    (one,) = await read(rows, "env-v1", 1)
    assert await seal(rows, ("one", one["row_version"], "n", "iv", "now", "c1", "s-one")) == 1
    assert (await rows.vault("one"))["key_check"] == "c1"


@pytest.mark.prove
async def test_what_is_left_as_it_is(rows: Database) -> None:
    """A row that was changed meanwhile, one that is sealed, and one whose wrap came or went."""
    before = await rows.fetch(COLUMNS)
    (two,), (three, zoe) = await read(rows, "env-v1", 2), await read(rows, "", 0)
    version = (await rows.vault("sealed"))["row_version"]
    assert (
        await seal(
            rows,
            ("two", two["row_version"] + 1, "new", "iv", "now", "c", "s"),
            ("sealed", version, "new", "iv", "now", "c", "s"),
            ("zoe", zoe["row_version"], "new", "iv", "now", "c", "s"),
            ("three", three["row_version"], None, None, None, None, "s"),
            ("nobody", 1, "new", "iv", "now", "c", "s"),
            # No seal: a new wrap alone is nothing that is stored.
            ("two", two["row_version"], "new", "iv", "now", "c", None),
        )
        == 0
    )
    assert await rows.fetch(COLUMNS) == before
    async with rows.connect() as writer, writer.transaction():
        await writer.execute(
            "UPDATE auth.encryption_vaults SET key_check = 'k' WHERE user_id = 'two'"
        )
        assert await seal(rows, ("two", two["row_version"], "new", "iv", "now", "c", "s")) == 0


@pytest.mark.prove
async def test_a_row_is_sealed_once(rows: Database) -> None:
    (two,) = await read(rows, "env-v1", 2)
    done = await asyncio.gather(
        *(
            seal(rows, ("two", two["row_version"], f"w-{n}", "iv", "now", "c", f"s-{n}"))
            for n in range(8)
        )
    )
    assert sum(done) == 1


@pytest.mark.prove
async def test_nothing_stays_open_and_sealed_rows_are_never_shown(rows: Database) -> None:
    calls = (
        "SELECT user_id FROM auth.custody_read_unsealed('env-v1', 2::smallint, '', NULL, 9)",
        "SELECT wraps FROM auth.custody_count_unsealed()",
        "SELECT auth.custody_seal_rows('{}', '{}', '{}', '{}', '{}', '{}', '{}', now())",
    )
    role = await rows.value(
        "SELECT tableowner FROM pg_tables WHERE tablename = 'encryption_vaults'"
    )
    seen = "5" if role == "postgres" else "0"
    for call, answer in zip(calls, ("two", "3", "0"), strict=True):
        left = f"BEGIN; {call}; SELECT count(*) FROM auth.encryption_vaults"
        assert psql(rows, role, left).split() == [answer, seen]
    await rows.execute("UPDATE auth.encryption_vaults SET seal = 's'")
    for kek_id, kind in (("env-v1", 1), ("env-v1", 2), ("env-v1", 3), ("", 0)):
        assert await read(rows, kek_id, kind) == []


@pytest.mark.prove
@pytest.mark.parametrize("role", ["custody_app", "custody_rewrap"])
async def test_unsealed_rows_are_counted(rows: Database, role: str) -> None:
    async with engine_of(rows.url(role)) as engine:
        assert await count_unsealed(engine) == Unsealed(3, 1)
        await rows.execute("UPDATE auth.encryption_vaults SET seal = 's'")
        assert not await count_unsealed(engine)


async def test_a_database_of_format_2(empty: Database) -> None:
    await move(empty)
    async with engine_of(empty.url("custody_app")) as engine:
        assert await count_unsealed(engine) == Unsealed(8, 4)
        (finding,) = await examine_rows(engine, accepted=False)
        assert (finding.verdict, finding.part) == (Verdict.FINDING, "rows")
        assert finding.message == (
            "12 rows (4 in zero-knowledge mode) are not sealed yet and refused: set "
            "CUSTODY_LEGACY_ROWS=accept and restart, then run: custody rewrap run"
        )
        (finding,) = await examine_rows(engine, accepted=True)
        assert finding.message.endswith("not sealed yet: run: custody rewrap run")
        await empty.execute("UPDATE auth.encryption_vaults SET seal = 's'")
        (finding,) = await examine_rows(engine, accepted=True)
        assert finding.verdict is Verdict.FINDING
        assert finding.message.endswith("take CUSTODY_LEGACY_ROWS away")
        (finding,) = await examine_rows(engine, accepted=False)
        assert finding.verdict is Verdict.OK


def test_how_many_are_said() -> None:
    assert str(Unsealed(1, 0)) == "1 row is"
    assert str(Unsealed(0, 2)) == "2 rows (2 in zero-knowledge mode) are"
    assert str(Unsealed(100_000, 1)) == "more than 100000 rows are"
