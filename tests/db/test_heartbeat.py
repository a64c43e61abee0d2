"""The sign of life: none only where this process alone has lost its way to the database."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db import engine as engine_module
from custody.db.checkout import acquire
from custody.db.engine import Dsn, create_engine
from custody.development.postgres import EmbeddedPostgres
from custody.ops import heartbeat
from custody.ops.heartbeat import Heartbeat
from tests.db.breaking import frozen, kill
from tests.servers import Database, postgres_server, start_on

POOL = 2


@dataclass(frozen=True)
class Kit:
    heart: Heartbeat
    engine: AsyncEngine


@asynccontextmanager
async def beating(database: Database) -> AsyncIterator[Kit]:
    """A heartbeat over two connections."""
    dsn = Dsn(database.url("custody_app"))
    engine, fresh = create_engine(dsn, pool_size=POOL), create_engine(dsn, pool_size=1)
    try:
        yield Kit(Heartbeat(engine, fresh), engine)
    finally:
        await engine.dispose()
        await fresh.dispose()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for seconds."""
    monkeypatch.setattr(engine_module, "CHECKOUT_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(heartbeat, "_ANSWER_SECONDS", 2.0)


@pytest.fixture
async def kit(database: Database) -> AsyncIterator[Kit]:
    async with beating(database) as made:
        yield made


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL for one test, which stops it; its template serves as the database."""
    with postgres_server() as server:
        yield server


async def connections(database: Database) -> int:
    return int(
        await database.value(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = 'custody_app'"
        )
    )


async def test_database_answers(kit: Kit, database: Database) -> None:
    assert await kit.heart.beat()
    assert await kit.heart.beat()
    # Nothing was opened to ask twice.
    assert await connections(database) == 1


async def test_connections_that_nobody_gives_back(kit: Kit, database: Database) -> None:
    async with AsyncExitStack() as leaked:
        for _ in range(POOL):
            await leaked.enter_async_context(acquire(kit.engine))
        assert not await kit.heart.beat()
        assert not await kit.heart.beat()
        # What it asked over is not kept.
        until = time.monotonic() + 5
        while await connections(database) != POOL:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)
    assert await kit.heart.beat()


async def test_busy_connections_that_come_and_go(kit: Kit) -> None:
    """Those who wait are many, and this one comes last: a load, and nothing that is stuck."""
    async with AsyncExitStack() as held:
        await held.enter_async_context(acquire(kit.engine))
        others = AsyncExitStack()
        await others.enter_async_context(acquire(kit.engine))
        next_one = asyncio.create_task(held.enter_async_context(acquire(kit.engine)))
        await asyncio.sleep(0.05)
        beat = asyncio.create_task(kit.heart.beat())
        await asyncio.sleep(0.05)
        await others.aclose()
        await next_one  # has what was given back, for longer than the heartbeat waits
        assert await beat
        # From here on none comes back.
        assert not await kit.heart.beat()


async def test_connection_that_nobody_answers_on(kit: Kit) -> None:
    """As one that a firewall has forgotten, while new ones are answered."""
    assert await kit.heart.beat()
    async with acquire(kit.engine) as held:
        backend = await held.fetchval("SELECT pg_backend_pid()")
    os.kill(backend, signal.SIGSTOP)
    try:
        assert not await kit.heart.beat()
        # That one was thrown away; the next is well.
        assert await kit.heart.beat()
    finally:
        os.kill(backend, signal.SIGCONT)


async def test_database_that_is_killed(own_server: EmbeddedPostgres) -> None:
    """No restart of ours would help."""
    async with beating(Database(own_server, "custody_template")) as kit:
        assert await kit.heart.beat()
        port = await asyncio.to_thread(kill, own_server)
        assert await kit.heart.beat()
        assert await kit.heart.beat()
        await asyncio.to_thread(start_on, own_server, port)
        assert await kit.heart.beat()
        async with AsyncExitStack() as leaked:
            for _ in range(POOL):
                await leaked.enter_async_context(acquire(kit.engine))
            assert not await kit.heart.beat()


@pytest.mark.parametrize("leaked", [0, POOL])
async def test_database_that_is_frozen(own_server: EmbeddedPostgres, leaked: int) -> None:
    """It answers nobody, whatever our own connections are at."""
    async with beating(Database(own_server, "custody_template")) as kit, AsyncExitStack() as held:
        assert await kit.heart.beat()
        for _ in range(leaked):
            await held.enter_async_context(acquire(kit.engine))
        with frozen(own_server):
            async with asyncio.timeout(10):
                assert await kit.heart.beat()
        await held.aclose()
        assert await kit.heart.beat()
