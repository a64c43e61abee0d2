"""What tests of connections share: engines, outcomes, and servers that do one thing."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from typing import TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from custody.db.connect import Manner, connect
from custody.db.dsn import Dsn
from custody.db.engine import open_engine
from custody.db.errors import DatabaseError, Refused
from tests.servers import Database

MANNER = Manner(5.0, 0)

Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def engine_of(url: str, pool_size: int = 1) -> AbstractAsyncContextManager[AsyncEngine]:
    """Make an engine for the length of a block."""
    return open_engine(Dsn(url), pool_size=pool_size)


def owner(database: Database) -> Dsn:
    """Return where its owner connects, who migrates it."""
    return Dsn(database.url("custody_owner"))


def borrowed(engine: AsyncEngine) -> int:
    """Return how many of its connections an engine has lent."""
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


async def outcome(url: str, manner: Manner = MANNER, *, plain: bool = False) -> str:
    """Connect, and return what came of it: the server's port, or the kind of error and its text."""
    try:
        connection = await connect(Dsn(url, plain), manner, variable="CUSTODY_DATABASE_URL")
    except Refused as error:
        return f"refused: {error}"
    except DatabaseError as error:
        return f"down: {error}"
    try:
        return str(await connection.fetchval("SELECT inet_server_port()"))
    finally:
        await connection.close()


@asynccontextmanager
async def serving(handle: Handler, listener: socket.socket | None = None) -> AsyncIterator[int]:
    """Serve connections for the length of the block, and end them with it; yields the port."""
    connections: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError, EOFError):
            await handle(reader, writer)

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.create_task(serve(reader, writer)))

    listener = listener or socket.create_server(("127.0.0.1", 0))
    server = await asyncio.start_server(begin, sock=listener)
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def pass_on(
    port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes = b""
) -> None:
    """Pass a connection on to a server on loopback, until one of them ends it."""
    from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
    to_server.write(first)
    await asyncio.gather(_copy(reader, to_server), _copy(from_server, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with closing(writer), suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
