"""Nothing is ever written under a retired KEK: whoever writes, and at whatever moment."""
# ruff: noqa: S608 - the SQL is of this file

import asyncio
from typing import Any

import asyncpg
import pytest

from custody.db.errors import RetiredKek
from custody.db.queries import query
from custody.db.scope import user_transaction
from custody.deadline import Deadline
from tests.db.connecting import engine_of
from tests.db.kek_registry import RETIRE, REWRAP, add_row, register, retire, states
from tests.db.psql import psql
from tests.eventually import eventually
from tests.servers import Database

SCOPE = "SET app.current_user_id = '{}';"
INSERT = (
    "INSERT INTO auth.encryption_vaults"
    " (user_id, wrapped_mk, wrap_iv, format_version, kek_id, seal)"
    " VALUES ('carol', 'w', '', 3, '{}', 's')"
)


@pytest.fixture
async def retired(database: Database) -> Database:
    """``old`` is retired, ``now`` is active. alice is under ``now``; bob, by force, under ``old``;
    zoe, in zero-knowledge mode, under ``old``; carol has no vault yet."""
    await register(database, "old", "f0")
    await register(database, "now", "f1", active=True)
    await add_row(database, "alice", "now")
    await add_row(database, "zoe", "old", wrap=None)
    await add_row(database, "bob", "old")
    await database.execute("UPDATE auth.encryption_vaults SET seal = 's', format_version = 3")
    await database.execute("INSERT INTO auth.users (id) VALUES ('carol')")
    # By hand, past the function that would have said: in use.
    sql = "UPDATE auth.encryption_keks SET state = 'retired', retired_at = now()"
    await database.execute(f"{sql} WHERE kek_id = 'old'")
    return database


WRITES = [
    ("custody_app", "carol", INSERT.format("old")),
    ("postgres", "carol", INSERT.format("old")),
    ("custody_app", "carol", f"{INSERT.format('old')} ON CONFLICT (user_id) DO NOTHING"),
    ("custody_app", "alice", "UPDATE auth.encryption_vaults SET kek_id = 'old'"),
    ("custody_app", "bob", "UPDATE auth.encryption_vaults SET wrapped_mk = 'x'"),
    ("custody_app", "bob", "UPDATE auth.encryption_vaults SET wrap_iv = 'x'"),
    (
        "custody_app",
        "zoe",
        (
            "UPDATE auth.encryption_vaults SET zero_knowledge = false, wrapped_mk = 'x',"
            " wrap_iv = '' WHERE user_id = 'zoe'"
        ),
    ),
    (
        "custody_rewrap",
        "",
        "UPDATE auth.encryption_vaults SET kek_id = 'old' WHERE user_id = 'alice'",
    ),
    (
        "custody_rewrap",
        "",
        "UPDATE auth.encryption_vaults SET wrapped_mk = 'x' WHERE user_id = 'bob'",
    ),
    ("postgres", "", "UPDATE auth.encryption_vaults SET kek_id = 'old' WHERE user_id = 'alice'"),
    ("custody_owner", "alice", "UPDATE auth.encryption_vaults SET kek_id = 'old'"),
]


@pytest.mark.parametrize(("role", "user", "sql"), WRITES)
async def test_no_wrap_under_a_retired_kek(
    retired: Database, role: str, user: str, sql: str
) -> None:
    before = await retired.fetch("SELECT * FROM auth.encryption_vaults ORDER BY user_id")
    answer = psql(retired, role, f"{SCOPE.format(user)} {sql}")
    assert "KEK01: the KEK old is retired: no wrap may be written under it" in answer
    assert await retired.fetch("SELECT * FROM auth.encryption_vaults ORDER BY user_id") == before


@pytest.mark.parametrize(
    ("role", "user", "sql"),
    [
        ("custody_app", "bob", "UPDATE auth.encryption_vaults SET recovery_iv = 'x'"),
        (
            "custody_app",
            "bob",
            "UPDATE auth.encryption_vaults SET recovery_wrapped_mk = NULL, recovery_iv = NULL",
        ),
        (
            "custody_app",
            "bob",
            (
                "UPDATE auth.encryption_vaults SET wrapped_mk = NULL, wrap_iv = NULL,"
                " zero_knowledge = true"
            ),
        ),
        ("custody_app", "bob", "UPDATE auth.encryption_vaults SET key_check = 'x'"),
        ("custody_app", "zoe", "UPDATE auth.encryption_vaults SET recovery_iv = 'x'"),
        (
            "custody_app",
            "bob",
            "UPDATE auth.encryption_vaults SET wrapped_mk = 'x', kek_id = 'now'",
        ),
        ("custody_app", "carol", INSERT.format("now")),
        ("custody_app", "carol", INSERT.format("never-registered")),
        (
            "custody_rewrap",
            "",
            (
                "UPDATE auth.encryption_vaults SET quarantined_at = now(),"
                " quarantine_reason = 'r' WHERE user_id = 'bob'"
            ),
        ),
        (
            "custody_rewrap",
            "",
            (
                "UPDATE auth.encryption_vaults SET wrapped_mk = 'x', kek_id = 'now'"
                " WHERE user_id = 'bob'"
            ),
        ),
    ],
)
async def test_what_writes_no_wrap_under_it_still_works(
    retired: Database, role: str, user: str, sql: str
) -> None:
    scope = "" if role == "custody_rewrap" else SCOPE.format(user)
    changed = f"WITH changed AS ({sql} RETURNING user_id) SELECT count(*) FROM changed"
    assert psql(retired, role, f"{scope} {changed}") == "1"


async def test_a_writer_who_may_not_read_the_registry_writes_no_wrap(database: Database) -> None:
    await add_row(database, "alice", "now")
    await database.execute(
        "CREATE ROLE blind_writer LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA auth TO blind_writer;"
        "GRANT SELECT, UPDATE ON auth.encryption_vaults TO blind_writer"
    )
    try:
        url = f"postgresql://blind_writer:x@127.0.0.1:{database.server.port}/{database.name}"
        connection = await asyncpg.connect(url)
        await connection.execute(SCOPE.format("alice"))
        assert await connection.execute("UPDATE auth.encryption_vaults SET recovery_iv = 'x'") == (
            "UPDATE 1"
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="encryption_keks"):
            await connection.execute("UPDATE auth.encryption_vaults SET wrapped_mk = 'x'")
        await connection.close()
    finally:
        await database.execute("DROP OWNED BY blind_writer; DROP ROLE blind_writer")


async def test_a_registry_that_is_hidden_lets_no_wrap_through(retired: Database) -> None:
    await retired.execute("ALTER TABLE auth.encryption_keks ENABLE ROW LEVEL SECURITY")
    answer = psql(retired, "custody_app", f"{SCOPE.format('carol')} {INSERT.format('old')}")
    assert "query would be affected by row-level security policy" in answer


@pytest.mark.parametrize("level", ["repeatable_read", "serializable"])
async def test_a_wrap_is_not_written_by_an_older_snapshot(database: Database, level: Any) -> None:
    await add_row(database, "alice", "now")
    await register(database, "old")
    async with database.connect("custody_rewrap") as writer:
        transaction = writer.transaction(isolation=level)
        await transaction.start()
        await writer.fetch("SELECT 1 FROM auth.encryption_keks")
        assert await retire(database, "old") == "retired"
        with pytest.raises(asyncpg.InvalidTransactionStateError, match="READ COMMITTED"):
            await writer.execute(REWRAP, "old", "alice")
        await transaction.rollback()


async def test_scope_names_it_and_keeps_its_level(retired: Database) -> None:
    await retired.execute(
        f"ALTER DATABASE {retired.name} SET default_transaction_isolation = 'serializable'"
    )
    insert = query("add_vault")
    async with engine_of(retired.url("custody_app")) as engine:
        with pytest.raises(RetiredKek):
            async with user_transaction(engine, "carol", Deadline.after(5)) as held:
                await held.fetchval(insert, "carol", 1, "w", "", 3, "old", None, "s")
        async with user_transaction(engine, "carol", Deadline.after(5)) as held:
            assert await held.fetchval(insert, "carol", 1, "w", "", 3, "now", None, "s")


# ── races: a writer and a retirement at the same time, in both orders ─────────


# How many sessions wait for an advisory lock.
WAITING = (
    "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
    " WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted"
)


@pytest.mark.parametrize(("end", "answer"), [("commit", "in-use"), ("rollback", "retired")])
@pytest.mark.parametrize("by_insert", [True, False])
async def test_writer_first(database: Database, end: str, answer: str, by_insert: bool) -> None:
    await register(database, "old")
    await add_row(database, "alice", "now")
    await database.execute("INSERT INTO auth.users (id) VALUES ('carol')")
    role = "custody_app" if by_insert else "custody_rewrap"
    async with database.connect(role) as writer:
        transaction = writer.transaction()
        await transaction.start()
        if by_insert:
            await writer.execute("SELECT set_config('app.current_user_id', 'carol', true)")
            await writer.execute(INSERT.format("old"))
        else:
            await writer.execute(REWRAP, "old", "alice")
        retirement = asyncio.create_task(retire(database, "old"))
        await eventually(lambda: database.value(WAITING))
        await getattr(transaction, end)()
        assert await retirement == answer
    under = "SELECT count(*) FROM auth.encryption_vaults WHERE kek_id = 'old'"
    assert await database.value(under) == (end == "commit")
    assert (await states(database))["old"] == ("retired" if end == "rollback" else "decrypt-only")


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("by_hand", [True, False])
async def test_retirement_first(database: Database, end: str, by_hand: bool) -> None:
    await register(database, "old")
    await add_row(database, "alice", "now")
    retires = (
        "UPDATE auth.encryption_keks SET state = 'retired', retired_at = now()"
        " WHERE kek_id = 'old' RETURNING state"
        if by_hand
        else RETIRE.replace("$1", "'old'")
    )
    async with (
        database.connect("postgres" if by_hand else "custody_rewrap") as retiring,
        database.connect("custody_rewrap") as writer,
    ):
        transaction, writing = retiring.transaction(), writer.transaction()
        await transaction.start()
        await writing.start()
        # The writer's transaction has looked at the registry, and seen it as it was.
        assert await writer.fetchval("SELECT state FROM auth.encryption_keks") == "decrypt-only"
        assert await retiring.fetchval(retires) == "retired"
        write = asyncio.create_task(writer.execute(REWRAP, "old", "alice"))
        await eventually(lambda: database.value(WAITING))
        await getattr(transaction, end)()
        if end == "commit":
            with pytest.raises(asyncpg.PostgresError) as caught:
                await write
            assert getattr(caught.value, "sqlstate", None) == "KEK01"
            await writing.rollback()
        else:
            assert await write == "UPDATE 1"
            await writing.commit()
    under = "SELECT count(*) FROM auth.encryption_vaults WHERE kek_id = 'old'"
    assert await database.value(under) == (end == "rollback")


async def test_retirement_by_hand_waits_for_writers(database: Database) -> None:
    await register(database, "old")
    await add_row(database, "alice", "now")
    sql = "UPDATE auth.encryption_keks SET state = 'retired', retired_at = now()"
    async with database.connect("custody_rewrap") as writer:
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute(REWRAP, "old", "alice")
        by_hand = asyncio.create_task(database.execute(sql))
        await eventually(lambda: database.value(WAITING))
        await transaction.commit()
        await by_hand


@pytest.mark.prove
async def test_retirement_gives_up_rather_than_hold_writers_up(database: Database) -> None:
    await register(database, "old")
    await add_row(database, "alice", "now")
    async with database.connect("custody_rewrap") as writer, writer.transaction():
        await writer.execute(REWRAP, "old", "alice")
        async with asyncio.timeout(5):
            with pytest.raises(asyncpg.LockNotAvailableError):
                await retire(database, "old")
        assert (await states(database))["old"] == "decrypt-only"


async def test_a_retirement_in_vain_waits_for_nobody(database: Database) -> None:
    await register(database, "k1", active=True)
    await add_row(database, "alice", "k1")
    await add_row(database, "bob", "k2")
    async with database.connect("custody_rewrap") as writer, writer.transaction():
        for kek_id in ("k1", "k2"):
            await writer.execute(REWRAP, kek_id, "alice")
        async with asyncio.timeout(0.9):
            assert await retire(database, "k1") == "active"
            assert await retire(database, "k2") == "in-use"


@pytest.mark.prove
async def test_many_writers_and_retirements_at_once(database: Database) -> None:
    """Whatever the interleaving: no row is ever under a retired KEK."""
    users = [f"user-{n}" for n in range(8)]
    for user in users:
        await add_row(database, user, "now")
    keks = [f"k{n}" for n in range(12)]

    async def write(user: str) -> None:
        async with database.connect("custody_rewrap") as connection:
            for kek_id in keks:
                try:
                    await connection.execute(REWRAP, kek_id, user)
                except asyncpg.PostgresError as error:
                    assert getattr(error, "sqlstate", None) == "KEK01"  # noqa: PT017

    async def end(kek_id: str) -> None:
        for _ in range(60):
            try:
                if await retire(database, kek_id) == "retired":
                    return
            except asyncpg.LockNotAvailableError:
                pass

    for kek_id in keks:
        await register(database, kek_id)
    await asyncio.gather(*map(write, users), *map(end, keks[:-1]))
    under = await database.fetch(
        "SELECT user_id, kek_id FROM auth.encryption_vaults JOIN auth.encryption_keks"
        " USING (kek_id) WHERE state = 'retired' AND wrapped_mk IS NOT NULL"
    )
    assert under == []
    assert "retired" in (await states(database)).values()
