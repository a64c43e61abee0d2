"""The watchdog ping: none only where this process alone has lost its way to the database."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db import engine as engine_module
from custody.db.checkout import acquire
from custody.development.postgres import EmbeddedPostgres
from custody.ops import heartbeat
from custody.ops.heartbeat import Heartbeat
from tests.db.breaking import frozen, killed
from tests.db.connecting import engine_of
from tests.eventually import eventually
from tests.proofs import some
from tests.servers import Database

POOL = 2  # of the engine
CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND usename = 'custody_app'"
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for seconds."""
    monkeypatch.setattr(engine_module, "CHECKOUT_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(heartbeat, "_ANSWER_SECONDS", 2.0)


@pytest.fixture
def database(own_database: Database) -> Database:
    return own_database


@pytest.fixture
async def heart(engine: AsyncEngine, database: Database) -> AsyncIterator[Heartbeat]:
    async with engine_of(database.url("custody_app")) as fresh:
        yield Heartbeat(engine, fresh)


async def test_database_answers(heart: Heartbeat, engine: AsyncEngine, database: Database) -> None:
    assert await heart.beat()
    assert await heart.beat()
    # Nothing was opened to ask twice.
    assert await database.value(CONNECTIONS) == 1


@pytest.mark.prove
async def test_connections_that_nobody_gives_back(
    heart: Heartbeat, engine: AsyncEngine, database: Database
) -> None:
    async with AsyncExitStack() as leaked:
        for _ in range(POOL):
            await leaked.enter_async_context(acquire(engine))
        assert not await heart.beat()
        assert not await heart.beat()
        # What it asked over is not kept.
        await eventually(lambda: database.value(f"SELECT ({CONNECTIONS}) = {POOL}"), 5)
    assert await heart.beat()


@pytest.mark.prove
async def test_busy_connections_that_come_and_go(heart: Heartbeat, engine: AsyncEngine) -> None:
    """Those who wait are many, and this one comes last: a load, and nothing that is stuck."""
    async with AsyncExitStack() as held:
        await held.enter_async_context(acquire(engine))
        others = AsyncExitStack()
        await others.enter_async_context(acquire(engine))
        next_one = asyncio.create_task(held.enter_async_context(acquire(engine)))
        await asyncio.sleep(0.05)
        beat = asyncio.create_task(heart.beat())
        await asyncio.sleep(0.05)
        await others.aclose()
        await next_one  # has what was given back, for longer than the heartbeat waits
        assert await beat
        # From here on none comes back.
        assert not await heart.beat()


@pytest.mark.prove
async def test_connection_that_nobody_answers_on(heart: Heartbeat, engine: AsyncEngine) -> None:
    """As one that a firewall has forgotten, while new ones are answered."""
    assert await heart.beat()
    async with acquire(engine) as held:
        backend = await held.fetchval("SELECT pg_backend_pid()")
    os.kill(backend, signal.SIGSTOP)
    try:
        assert not await heart.beat()
        # That one was thrown away; the next is well.
        assert await heart.beat()
    finally:
        os.kill(backend, signal.SIGCONT)


@pytest.mark.prove
async def test_database_that_is_killed(
    heart: Heartbeat, engine: AsyncEngine, own_server: EmbeddedPostgres
) -> None:
    """No restart of ours would help."""
    assert await heart.beat()
    async with killed(own_server):
        assert await heart.beat()
        assert await heart.beat()
    assert await heart.beat()
    async with AsyncExitStack() as leaked:
        for _ in range(POOL):
            await leaked.enter_async_context(acquire(engine))
        assert not await heart.beat()


@pytest.mark.prove
@pytest.mark.parametrize("leaked", some([0, POOL], POOL))
async def test_database_that_is_frozen(
    heart: Heartbeat, engine: AsyncEngine, own_server: EmbeddedPostgres, leaked: int
) -> None:
    """It answers nobody, whatever our own connections are at."""
    async with AsyncExitStack() as held:
        assert await heart.beat()
        for _ in range(leaked):
            await held.enter_async_context(acquire(engine))
        async with frozen(own_server), asyncio.timeout(10):
            assert await heart.beat()
    assert await heart.beat()
