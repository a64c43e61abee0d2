"""A broken, frozen or busy database: requests end in time, and nothing is left behind."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit import writer
from custody.db.errors import Busy, ConnectionLost, DatabaseError, OnlyThisRequest, Refused
from custody.db.queries import query
from custody.db.scope import user_transaction
from custody.deadline import Deadline
from custody.http import frontend
from custody.ops import health
from custody.vault import rows
from tests.client import Client, becomes
from tests.db.breaking import freeze, frozen, killed, thawed
from tests.db.connecting import borrowed
from tests.eventually import eventually
from tests.servers import Daemon, Database

Device = Callable[[str], Client]


# What backends of custody are at, and the locks that they hold.
AT_WORK = (
    "SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'custody' AND state <> 'idle')"
    " + (SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE application_name = 'custody' AND datname = current_database())"
)


@pytest.fixture
def database(own_database: Database) -> Database:
    return own_database


async def clean(database: Database, engine: AsyncEngine, seconds: float = 8) -> None:
    """Wait until nothing is borrowed, no transaction open, and no lock held."""

    async def look() -> bool:
        return bool(borrowed(engine) == await database.value(AT_WORK) == 0)

    await eventually(look, seconds)


# ── the scope itself ──────────────────────────────────────────────────────────


async def works(engine: AsyncEngine) -> None:
    async with user_transaction(engine, "alice", Deadline.after(5)) as held:
        assert await held.fetchval("SELECT current_setting('app.current_user_id')") == "alice"


async def sleep_in(engine: AsyncEngine, deadline: float, statement: str) -> None:
    async with user_transaction(engine, "alice", Deadline.after(deadline)) as held:
        await held.execute("SELECT pg_advisory_xact_lock(1)")
        await held.execute(statement)


@pytest.mark.prove
async def test_cancelled_at_any_moment(engine: AsyncEngine, database: Database) -> None:
    for number in range(40):
        task = asyncio.create_task(sleep_in(engine, 4, "SELECT pg_sleep(0.02)"))
        await asyncio.sleep(number / 1000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert borrowed(engine) == 0
    await clean(database, engine)
    await asyncio.gather(*(works(engine) for _ in range(4)))


async def test_cancelled_while_a_statement_hangs(engine: AsyncEngine, database: Database) -> None:
    tasks = [asyncio.create_task(sleep_in(engine, 2, "SELECT pg_sleep(60)")) for _ in range(2)]
    await asyncio.sleep(0.4)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # The server itself ends the statement at the deadline, if it was not told before.
    await clean(database, engine, 4)
    await works(engine)


async def test_out_of_time(engine: AsyncEngine, database: Database) -> None:
    for deadline in (0.4, 0.001, 0, -1):
        began = time.monotonic()
        with pytest.raises(DatabaseError):
            await sleep_in(engine, deadline, "SELECT pg_sleep(60)")
        assert time.monotonic() - began < 2
        assert borrowed(engine) == 0
    await clean(database, engine, 4)
    await works(engine)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("SELECT 1 / 0", OnlyThisRequest),
        ("SELEKT", DatabaseError),
        ("TRUNCATE auth.encryption_vaults", Refused),
        ("SELECT pg_terminate_backend(pg_backend_pid())", ConnectionLost),
        ("DO $$ BEGIN RAISE disk_full; END $$", DatabaseError),
    ],
)
async def test_failing_statement(
    engine: AsyncEngine, database: Database, statement: str, kind: type[DatabaseError]
) -> None:
    for _ in range(4):
        with pytest.raises(DatabaseError) as caught:
            await sleep_in(engine, 5, statement)
        assert type(caught.value) is kind
        # What /readyz shows of it, then.
        assert ("the disk of the database is full" in str(caught.value)) == ("disk" in statement)
        assert caught.value.__suppress_context__
        assert borrowed(engine) == 0
    await clean(database, engine)
    await works(engine)


async def test_own_error_rolls_back_and_passes(engine: AsyncEngine, database: Database) -> None:
    async def fail() -> None:
        async with user_transaction(engine, "alice", Deadline.after(5)) as held:
            await held.execute("SELECT auth.custody_add_user('alice')")
            raise KeyError("ours")

    with pytest.raises(KeyError):
        await fail()
    session = "SELECT pid FROM pg_stat_activity WHERE application_name = 'custody'"
    session += " AND datname = current_database()"
    before = await database.fetch(session)
    with pytest.raises(KeyError):
        await fail()
    # Rolled back, not thrown away: a refusal costs no new connection.
    assert await database.fetch(session) == before
    assert await database.value("SELECT count(*) FROM auth.users") == 0
    await clean(database, engine)


@pytest.mark.prove
async def test_no_connection_is_free(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hold() -> None:
        async with user_transaction(engine, "alice", Deadline.after(6)) as held:
            await held.execute("SELECT pg_sleep(5)")

    holders = [asyncio.create_task(hold()) for _ in range(2)]
    await asyncio.sleep(0.3)
    assert borrowed(engine) == 2
    with pytest.raises(Busy):  # the pool's own limit
        await works(engine)
    began = time.monotonic()
    with pytest.raises(DatabaseError):  # the request's deadline, when that is nearer
        async with user_transaction(engine, "alice", Deadline.after(0.3)):
            pass
    assert time.monotonic() - began < 2
    for holder in holders:
        holder.cancel()
    await asyncio.gather(*holders, return_exceptions=True)
    await works(engine)
    assert borrowed(engine) == 0


async def test_setting_does_not_outlive_its_transaction(engine: AsyncEngine) -> None:
    await works(engine)
    async with engine.connect() as connection:
        held: Any = (await connection.get_raw_connection()).driver_connection
        assert await held.fetchval("SELECT current_setting('app.current_user_id', true)") == ""
        assert await held.fetchval("SHOW statement_timeout") == "0"


# ── a daemon on a database that breaks ────────────────────────────────────────


@pytest.mark.prove
async def test_frozen_in_the_middle(
    database: Database, engines: list[AsyncEngine], device: Device
) -> None:
    alice = device("alice")
    before = await alice.init()
    await asyncio.gather(*(device("bob").init() for _ in range(4)))
    rotated = "SELECT count(*) FROM auth.encryption_vaults WHERE rotated_at IS NOT NULL"
    async with frozen(database.server):
        calls = [alice.rotate(), alice.key(), alice.status(), device("new").init()]
        calls += [device("bob").rotate() for _ in range(6)]
        waited = (asyncio.wait_for(call, frontend.REQUEST_SECONDS + 1) for call in calls)
        answers = await asyncio.gather(*waited)
    for answer in answers:
        assert answer.status == 503
        assert answer.code in {"DATABASE_UNAVAILABLE", "AUDIT_UNAVAILABLE", "OVERLOADED"}
        assert answer.headers["Retry-After"]
    await clean(database, engines[0])
    await asyncio.sleep(0.5)
    after = await alice.key()
    assert (after.status, after.json) == (200, before.json)
    assert after.headers["Etag"] == before.headers["Etag"]
    assert await database.value(rotated) == 0
    assert ("rotate", None, 200) not in await database.audit("alice")
    assert await database.audit("new") == []
    assert (await device("new").init()).status == 200


@pytest.mark.prove
async def test_frozen_just_before_commit(
    database: Database,
    engines: list[AsyncEngine],
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """COMMIT is on its way when the server stops: it reads it after the deadline, and refuses."""
    monkeypatch.setattr(frontend, "REQUEST_SECONDS", 4.0)
    write = writer.write

    async def write_then_freeze(connection: Any, event: Any, seals: Any) -> None:
        await write(connection, event, seals)
        if event.action == "rotate":
            freeze(database.server)

    alice = device("alice")
    before = await alice.init()
    with monkeypatch.context() as patch, thawed(database.server):
        patch.setattr(rows, "write", write_then_freeze)
        began = time.monotonic()
        answer = await alice.rotate()
        assert 3 < time.monotonic() - began < 5
    assert answer.status == 503
    await clean(database, engines[0])
    assert (await alice.key()).json == before.json
    assert ("rotate", None, 200) not in await database.audit("alice")


@pytest.mark.prove
async def test_killed_and_started_again(
    database: Database,
    engines: list[AsyncEngine],
    daemon: Daemon,
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "_AGAIN_SECONDS", 0.2)
    monkeypatch.setattr(health, "_RETRY_SECONDS", 0.2)
    alice = device("alice")
    before = await alice.init()
    async with killed(database.server):
        for call in (alice.key(), alice.rotate(), alice.status(), alice.audit(), alice.init()):
            answer = await asyncio.wait_for(call, 4)
            assert (answer.status, answer.code) == (503, "DATABASE_UNAVAILABLE")
        await becomes(daemon, 503, database="the database")
    await becomes(daemon, 200)
    after = await alice.key()
    assert (after.status, after.json) == (200, before.json)
    await clean(database, engines[0])


@pytest.mark.prove
async def test_terminated_backends(
    database: Database, engines: list[AsyncEngine], device: Device
) -> None:
    key = (await device("alice").init()).json
    for _ in range(5):
        await asyncio.gather(*(device("alice").key() for _ in range(8)))
        await database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'custody' AND datname = current_database()"
        )
        answer = await device("alice").key()
        assert answer.status in {200, 503}
        again = await device("alice").key()
        assert (again.status, again.json) == (200, key)
    await clean(database, engines[0])


@pytest.mark.prove
async def test_locked_row_of_one_user(
    database: Database, engines: list[AsyncEngine], device: Device
) -> None:
    count = round(5 * frontend.REQUEST_SECONDS)
    before = await device("alice").init()
    for user in ("bob", "carol"):
        assert (await device(user).init()).status == 200
    async with database.connect() as other, other.transaction():
        await other.execute(
            "SELECT 1 FROM auth.encryption_vaults WHERE user_id = 'alice' FOR UPDATE"
        )
        stuck = [asyncio.create_task(device("alice").rotate()) for _ in range(count)]
        await asyncio.sleep(0.3)
        for _ in range(10):
            for user in ("bob", "carol"):
                assert (await asyncio.wait_for(device(user).key(), 1.5)).status == 200
            rotated = await asyncio.wait_for(device("bob").rotate(), 1.5)
            assert rotated.status == 200
        # A read of the locked row waits for nobody.
        assert (await device("alice").key()).json == before.json
        answers = await asyncio.gather(*stuck)
    assert {(answer.status, answer.code) for answer in answers} == {(503, "OVERLOADED")}
    audit = await database.audit("alice")
    assert audit.count(("rotate", "overloaded", 503)) == count
    assert (await device("alice").rotate()).status == 200
    await clean(database, engines[0])


@pytest.mark.prove
async def test_clients_that_go_away(
    database: Database, engines: list[AsyncEngine], device: Device
) -> None:
    assert (await device("alice").init()).status == 200
    generation = "SELECT generation FROM auth.encryption_vaults"
    first = await database.value(generation)
    for number in range(30):
        task = asyncio.create_task(device("alice").rotate())
        await asyncio.sleep(number / 2000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await clean(database, engines[0])
    # Whoever was served to the end has exactly one row; nobody left a row without its key.
    rotates = (await database.audit("alice")).count(("rotate", None, 200))
    assert await database.value(generation) == first + rotates
    assert (await device("alice").key()).status == 200


@pytest.mark.prove
async def test_a_slow_start_does_not_move_the_deadline_of_the_commit(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database counts from when it runs the statement, which may be long after it was sent."""
    slow = [query("open_scope").replace("SELECT ", "SELECT pg_sleep(0.6), ", 1)]

    def first_slow(name: str) -> str:
        return slow.pop() if name == "open_scope" and slow else query(name)

    monkeypatch.setattr("custody.db.scope.query", first_slow)
    deadline = Deadline.after(5)
    async with user_transaction(engine, "alice", deadline) as held:
        left = await held.fetchval(
            "SELECT current_setting('app.deadline')::float8 - extract(epoch FROM clock_timestamp())"
        )
        assert not slow
        assert left < deadline.remaining()


@pytest.mark.prove
async def test_a_failure_that_came_of_a_full_pool_is_recorded_all_the_same(
    database: Database, engines: list[AsyncEngine], device: Device
) -> None:
    alice = device("alice")
    await alice.init()
    held = [await engines[0].connect() for _ in range(4)]
    answer = await alice.key()
    assert (answer.status, answer.code) == (503, "OVERLOADED")
    assert (await database.audit("alice"))[-1] == ("failed_fetch", "overloaded", 503)
    for connection in held:
        await connection.close()
    assert (await alice.key()).status == 200
