"""What a proxy asks of a daemon: seen on the wire between the two."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field

_CHUNK = 64 * 1024


@dataclass
class Tap:
    """Passes on what comes, both ways.

    Attributes:
        port: where it listens, on 127.0.0.1.
        made: how many connections were made.
        open: how many of them there are now.
        asked: all bytes that the proxy has sent, by connection.
    """

    port: int = 0
    made: int = 0
    open: int = 0
    asked: list[bytearray] = field(default_factory=list)

    def has_seen(self, text: bytes) -> bool:
        """Say whether the proxy has sent this on any connection."""
        return any(text in asked for asked in self.asked)


@asynccontextmanager
async def tap(port: int) -> AsyncIterator[Tap]:
    """Listen for the length of the block, in front of a port of 127.0.0.1."""
    one, connections = Tap(), set[asyncio.Task[None]]()

    async def serve(client: StreamReader, to_client: StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        connections.add(connection)
        one.made += 1
        one.open += 1
        one.asked.append(asked := bytearray())
        try:
            with closing(to_client):
                server, to_server = await asyncio.open_connection("127.0.0.1", port)
                with closing(to_server):
                    both = [_passing(client, to_server, asked), _passing(server, to_client)]
                    ways = [asyncio.ensure_future(way) for way in both]
                    _, pending = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                    for way in pending:
                        way.cancel()
        except asyncio.CancelledError:
            pass  # the end of the tap: asyncio would log a task that is cancelled
        finally:
            one.open -= 1
            connections.discard(connection)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _passing(
    reader: StreamReader, writer: StreamWriter, kept: bytearray | None = None
) -> None:
    """Pass on until either side has gone: the other one loses its connection, too."""
    with suppress(OSError):
        while said := await reader.read(_CHUNK):
            if kept is not None:
                kept += said
            writer.write(said)
            await writer.drain()
