"""What tests of connections share: engines, outcomes, and servers that do one thing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from custody.db.connect import Manner, connect
from custody.db.dsn import Dsn
from custody.db.engine import create_engine
from custody.db.errors import DatabaseError, Refused
from tests.servers import Database

MANNER = Manner(5.0, 0)

Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def engine_of(url: str, pool_size: int = 1) -> AsyncIterator[AsyncEngine]:
    """Make an engine for the length of the block."""
    engine = create_engine(Dsn(url), pool_size=pool_size)
    try:
        yield engine
    finally:
        await engine.dispose()


def owner(database: Database) -> Dsn:
    """Return where its owner connects, who migrates it."""
    return Dsn(database.url("custody_owner"))


def borrowed(engine: AsyncEngine) -> int:
    """Return how many of its connections an engine has lent."""
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


async def outcome(url: str, manner: Manner = MANNER) -> str:
    """Connect, and return what came of it: the server's port, or the kind of error and its text."""
    try:
        connection = await connect(Dsn(url), manner, variable="CUSTODY_DATABASE_URL")
    except Refused as error:
        return f"refused: {error}"
    except DatabaseError as error:
        return f"down: {error}"
    try:
        return str(await connection.fetchval("SELECT inet_server_port()"))
    finally:
        await connection.close()


@asynccontextmanager
async def serving(
    handle: Handler, host: str = "127.0.0.1", port: int = 0, *, path: Path | None = None
) -> AsyncIterator[int]:
    """Serve connections for the length of the block, and end them with it; return the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handle(reader, writer)
        finally:
            writer.close()

    if path is None:
        server = await asyncio.start_server(serve, host, port)
    else:
        server = await asyncio.start_unix_server(serve, path)
    try:
        yield 0 if path else server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def be_silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Take what comes and never answer."""
    while await reader.read(1024):
        pass


async def pass_on(
    port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes = b""
) -> None:
    """Pass a connection on to a server on loopback, until one of them ends it."""
    from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
    to_server.write(first)
    try:
        await asyncio.gather(_copy(reader, to_server), _copy(from_server, writer))
    finally:
        to_server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
