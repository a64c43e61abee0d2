"""Data keys are announced, promoted and ended in the database: each once, whole, and guarded."""
# ruff: noqa: S608 - the SQL is of this file

import asyncio
from typing import Any

import asyncpg
import pytest

from custody.db.errors import DataKeyEnded
from custody.db.scope import user_transaction
from custody.deadline import Deadline
from tests.db.connecting import engine_of
from tests.db.data_keys import add_sealed_row, ask, new_id
from tests.db.kek_registry import register
from tests.db.psql import psql
from tests.servers import Database

ANNOUNCE = "SELECT auth.custody_announce_data_key($1, $2, 'env-v1', 'w', '', $3, $4, $5)"
PROMOTE = "SELECT auth.custody_promote_data_key($1, $2, $3, $4, $5)"
END = (
    "SELECT auth.custody_end_data_key($1, $2, $3, $4,"
    " E'custody-audit-ended-key\\n' || $1 || E'\\n')"
)
KEYS = "SELECT id, seal FROM auth.encryption_data_keys ORDER BY id"
OWN, NEXT_OWN, WORD = "a" * 64, "b" * 64, "c" * 64
FIRST, NEXT = "dk-" + "1" * 32, "dk-" + "2" * 32
ROOT = f"1.{OWN}"
ANNOUNCED = f"2.{FIRST}.{NEXT_OWN}.{WORD}"
PREDECESSOR = f"2.{NEXT}.{OWN}.{WORD}"


async def keys(database: Database) -> dict[str, str]:
    return dict(await database.fetch(KEYS))


async def worker(database: Database, sql: str, *parameters: Any) -> Any:
    return await ask(database, "custody_rewrap", sql, *parameters)


async def announce(database: Database, key: str = NEXT, *bad: str) -> Any:
    return await worker(database, ANNOUNCE, key, ANNOUNCED, FIRST, ROOT, list(bad))


@pytest.fixture
async def first(database: Database) -> Database:
    """A database with one data key."""
    await database.execute(
        "INSERT INTO auth.encryption_data_keys (id, seal) VALUES ($1, $2)", FIRST, ROOT
    )
    return database


@pytest.fixture
async def promoted(first: Database) -> Database:
    """One whose data key has a successor that was promoted."""
    assert await announce(first) == NEXT
    assert await worker(first, PROMOTE, NEXT, ANNOUNCED, FIRST, ROOT, WORD)
    return first


async def test_many_at_once_announce_one(first: Database) -> None:
    made = await asyncio.gather(*(announce(first, new_id()) for _ in range(10)))
    assert len(set(made)) == 1
    assert len(await keys(first)) == 2


async def test_none_is_announced_by_one_that_is_not_current(first: Database) -> None:
    for current in ((FIRST, f"1.{NEXT_OWN}"), (NEXT, ROOT)):
        assert await worker(first, ANNOUNCE, NEXT, ANNOUNCED, *current, []) is None
    await first.execute("UPDATE auth.encryption_data_keys SET lost_at = now()")
    assert await announce(first) is None
    assert await keys(first) == {FIRST: ROOT}


async def test_what_is_no_data_key_of_ours_is_in_nobodys_way(first: Database) -> None:
    assert await announce(first) == NEXT
    other = new_id()
    assert await announce(first, other) == NEXT
    assert await announce(first, other, NEXT) == other


async def test_both_seals_change_or_none(first: Database) -> None:
    await announce(first)
    before = await keys(first)
    for wrong in (
        (NEXT, f"2.{FIRST}.{NEXT_OWN}.{OWN}", FIRST, ROOT),
        (NEXT, ANNOUNCED, FIRST, f"1.{NEXT_OWN}"),
        (FIRST, ROOT, NEXT, ANNOUNCED),
        (NEXT, ANNOUNCED, NEXT, ANNOUNCED),
    ):
        assert await worker(first, PROMOTE, *wrong, WORD) is False
        assert await keys(first) == before
    done = await asyncio.gather(
        *(worker(first, PROMOTE, NEXT, ANNOUNCED, FIRST, ROOT, WORD) for _ in range(5))
    )
    assert sorted(done) == [False] * 4 + [True]
    assert await keys(first) == {FIRST: PREDECESSOR, NEXT: f"1.{NEXT_OWN}"}


ENDING = (FIRST, PREDECESSOR, NEXT, f"1.{NEXT_OWN}")


async def test_it_is_ended_only_when_nothing_carries_it(promoted: Database) -> None:
    await add_sealed_row(promoted, "alice", f"1.{FIRST}.00")
    await promoted.execute(
        "INSERT INTO auth.encryption_data_key_wraps VALUES ($1, 'old', 'w', '', 3)", FIRST
    )
    await add_sealed_row(promoted, "bob", f"1.{NEXT}.00", FIRST)
    await register(promoted, "old", "f", seal=f"1.{FIRST}.00")
    for answer, cure in (
        ("rows", "DELETE FROM auth.encryption_vaults WHERE user_id = 'alice'"),
        ("wraps", "DELETE FROM auth.encryption_vaults WHERE user_id = 'bob'"),
        ("keks", f"UPDATE auth.encryption_keks SET seal = '1.{NEXT}.00'"),
    ):
        assert await worker(promoted, END, *ENDING) == answer
        await promoted.execute(cure)
    wrong = (
        (FIRST, f"2.{NEXT}.{OWN}.{OWN}", NEXT, f"1.{NEXT_OWN}"),
        (FIRST, PREDECESSOR, NEXT, f"1.{OWN}"),
        (NEXT, f"1.{NEXT_OWN}", FIRST, PREDECESSOR),
    )
    for one in wrong:
        assert await worker(promoted, END, *one) == "changed"
    assert await worker(promoted, END, *ENDING) == "ended"
    assert await worker(promoted, END, *ENDING) == "unknown"
    assert await keys(promoted) == {NEXT: f"1.{NEXT_OWN}"}
    assert await promoted.value("SELECT ended FROM auth.encryption_data_keys") == [FIRST]
    left = psql(
        promoted,
        "custody_owner",
        f"BEGIN; SELECT auth.custody_end_data_key('{FIRST}', 's', 'k', 's',"
        f" E'custody-audit-ended-key\\n{FIRST}\\n');"
        " SELECT count(*) FROM auth.encryption_vaults",
    )
    assert left.split() == ["unknown", "0"]


@pytest.mark.prove
async def test_whoever_ends_it_waits_for_who_seals_with_it(promoted: Database) -> None:
    async with promoted.connect() as writer, writer.transaction():
        await writer.execute("INSERT INTO auth.users (id) VALUES ('alice')")
        await writer.execute(
            "INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version,"
            " key_check, seal) VALUES ('alice', 'w', 'iv', 3, 'c', $1)",
            f"1.{FIRST}.00",
        )
        with pytest.raises(asyncpg.LockNotAvailableError):
            await worker(promoted, END, *ENDING)
    assert await worker(promoted, END, *ENDING) == "rows"


async def test_nothing_is_sealed_with_one_that_was_ended(promoted: Database) -> None:
    await add_sealed_row(promoted, "alice", f"1.{NEXT}.00")
    assert await worker(promoted, END, *ENDING) == "ended"
    update = "UPDATE auth.encryption_vaults SET seal = $1, generation = generation + 1"
    async with engine_of(promoted.url("custody_app")) as engine:
        with pytest.raises(DataKeyEnded):
            async with user_transaction(engine, "alice", Deadline.after(5)) as connection:
                await connection.execute(update, f"1.{FIRST}.01")
    with pytest.raises(asyncpg.PostgresError, match="was ended"):
        await add_sealed_row(promoted, "bob", f"1.{FIRST}.00")
    await promoted.execute(update, f"1.{NEXT}.01")


@pytest.mark.parametrize("call", [ANNOUNCE, PROMOTE, END])
async def test_in_an_older_snapshot_nothing_is_done(first: Database, call: str) -> None:
    parameters = {
        ANNOUNCE: (NEXT, ANNOUNCED, FIRST, ROOT, []),
        PROMOTE: (NEXT, ANNOUNCED, FIRST, ROOT, WORD),
        END: ENDING,
    }[call]
    async with first.connect("custody_rewrap") as role:
        with pytest.raises(asyncpg.InvalidTransactionStateError, match="READ COMMITTED"):
            async with role.transaction(isolation="repeatable_read"):
                await role.fetchval(call, *parameters)
    assert await keys(first) == {FIRST: ROOT}


async def test_rows_are_shown_and_sealed_for_a_predecessor_alone(first: Database) -> None:
    """And the worker's role touches no other by these functions."""
    await add_sealed_row(first, "alice", f"1.{FIRST}.00")
    read = "SELECT user_id FROM auth.custody_load_sealed_before($1, '', NULL, now(), 9)"
    seal = (
        "SELECT stored FROM auth.custody_reseal_rows($1, ARRAY['alice', 'bob'], ARRAY[$2, 1],"
        " '{NULL,NULL}', '{NULL,NULL}', '{NULL,NULL}', ARRAY['x', 'x'], '{NULL,NULL}', now())"
    )
    version = "SELECT row_version FROM auth.encryption_vaults WHERE user_id = 'alice'"
    for key in (FIRST, NEXT):
        assert await worker(first, read, key) is None
        assert await worker(first, seal, key, await first.value(version)) == 0
    await announce(first)
    assert await worker(first, read, FIRST) is None  # a successor is no predecessor
    assert await worker(first, PROMOTE, NEXT, ANNOUNCED, FIRST, ROOT, WORD)
    await add_sealed_row(first, "bob", f"1.{NEXT}.00")
    assert await worker(first, read, NEXT) == "alice"
    assert await worker(first, seal, NEXT, await first.value(version)) == 1
    serials = dict(await first.fetch("SELECT user_id, seal_serial FROM auth.encryption_vaults"))
    assert serials == {"alice": 1, "bob": 0}


RESEAL = (
    "SELECT stored FROM auth.custody_reseal_rows($1, ARRAY['alice'], ARRAY[1], '{new}', '{iv}',"
    " ARRAY[$2], ARRAY['1.' || $1 || '.01'], '{NULL}', now())"
)
KEK_OF = "SELECT kek_id FROM auth.encryption_vaults WHERE user_id = $1"


async def test_rows_are_never_resealed_under_a_kek_that_may_not_be_written(
    promoted: Database,
) -> None:
    """The function looks itself: the triggers that do are left out in it."""
    await register(promoted, "old", "f0")
    assert await worker(promoted, "SELECT auth.custody_retire_kek('old')") == "retired"
    await add_sealed_row(promoted, "alice", f"1.{FIRST}.00")
    for kek_id, state in (("old", "KEK01"), (FIRST, "KEK02")):  # of FIRST there is no wrap
        with pytest.raises(asyncpg.PostgresError) as refused:
            await worker(promoted, RESEAL, NEXT, kek_id)
        assert refused.value.sqlstate == state
    async with promoted.connect("custody_rewrap") as role:
        with pytest.raises(asyncpg.InvalidTransactionStateError, match="READ COMMITTED"):
            async with role.transaction(isolation="repeatable_read"):
                await role.fetchval(RESEAL, NEXT, "env-v1")
    assert await promoted.value(KEK_OF, "alice") == "env-v1"
    assert await worker(promoted, RESEAL, NEXT, "env-v2") == 1
    assert await promoted.value(KEK_OF, "alice") == "env-v2"


@pytest.mark.prove
async def test_a_retirement_waits_for_rows_that_are_being_resealed(promoted: Database) -> None:
    await register(promoted, "old", "f0")
    await add_sealed_row(promoted, "alice", f"1.{FIRST}.00")
    async with promoted.connect("custody_rewrap") as role, role.transaction():
        assert await role.fetchval(RESEAL, NEXT, "old") == 1
        with pytest.raises(asyncpg.LockNotAvailableError):
            await worker(promoted, "SELECT auth.custody_retire_kek('old')")
    assert await worker(promoted, "SELECT auth.custody_retire_kek('old')") == "in-use"


async def test_who_calls_it_resealing_is_looked_at_all_the_same(promoted: Database) -> None:
    await register(promoted, "old", "f0")
    assert await worker(promoted, "SELECT auth.custody_retire_kek('old')") == "retired"
    await add_sealed_row(promoted, "alice", f"1.{NEXT}.00")
    assert await worker(promoted, END, *ENDING) == "ended"
    for role, change, state in (
        ("custody_rewrap", "kek_id = 'old'", "KEK01"),
        ("custody_app", "kek_id = 'old'", "KEK01"),
        ("custody_app", f"seal = '1.{FIRST}.01'", "KEK03"),
    ):
        async with promoted.connect(role) as writer, writer.transaction():
            await writer.execute("SET LOCAL custody.reseals_rows = 'on'")
            await writer.execute("SET LOCAL app.current_user_id = 'alice'")
            with pytest.raises(asyncpg.PostgresError) as refused:
                async with writer.transaction():
                    await writer.execute(f"UPDATE auth.encryption_vaults SET {change}")
            assert refused.value.sqlstate == state


@pytest.mark.parametrize("role", ["custody_app", "custody_owner"])
async def test_who_may_not(promoted: Database, role: str) -> None:
    for call in (
        f"SELECT auth.custody_announce_data_key('{NEXT}', '', '', '', '', '', '', '{{}}')",
        f"SELECT auth.custody_promote_data_key('{NEXT}', '', '', '', '')",
        "SELECT auth.custody_end_data_key('', '', '', '', E'custody-audit-ended-key\\n\\n')",
        "SELECT auth.custody_load_sealed_before('', '', NULL, now(), 1)",
        "SELECT auth.custody_reseal_rows('', '{}', '{}', '{}', '{}', '{}', '{}', '{}', now())",
        "SELECT auth.custody_reseal_kek('', '', '')",
    ):
        found = psql(promoted, role, call)
        assert ("42501" in found) is (role == "custody_app"), found
