"""A TCP proxy on loopback that breaks as networks and servers do, for a real server behind it."""

import asyncio
import contextlib
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto

from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.ports import free_port, stop_listening

_CHUNK = 64 * 1024
_TICK = 0.05
_SLOW_SECONDS = 0.1
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"


class Fault(Enum):
    """What the proxy does with bytes, also on connections that it already has."""

    NONE = auto()
    REFUSE = auto()  # nobody listens, and what was open is closed
    RESET = auto()  # each connection is reset when it sends something
    BLACK_HOLE = auto()  # half-open: connections are taken and kept, nothing comes through
    SWALLOW = auto()  # what is asked comes through, and of the answer nothing
    SLOW = auto()  # what clients say comes a tenth of a second later
    DRIP = auto()  # answers come a byte at a time, and never end in time
    ENDLESS = auto()  # the answer's body never ends, as fast as it can
    GARBAGE = auto()  # an answer that is no JSON, with status 200


# What is answered instead, by the proxy itself, and what is said after it for ever.
_INSTEAD = {
    Fault.RESET: (b"", b""),
    Fault.GARBAGE: (_HEAD + b"Content-Length: 13\r\n\r\n<html></html>", b""),
    Fault.ENDLESS: (_HEAD + b'\r\n{"data": "', b"x" * _CHUNK),
}


class FaultyProxy:
    """Runs in the event loop of another thread; ``fault`` may be set at any time.

    Args:
        port: of the real server on loopback.
        portal: into the event loop of another thread.
    """

    def __init__(self, port: int, portal: BlockingPortal) -> None:
        self._target = port
        self._portal = portal
        self.port = free_port()
        self._fault = Fault.NONE
        self._listener: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], StreamWriter] = {}
        self._passes = asyncio.Event()

    @property
    def address(self) -> str:
        """The proxy's own address, as a URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def fault(self) -> Fault:
        """What it does now."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._portal.call(self._become, fault)

    async def _become(self, fault: Fault) -> None:
        self._fault = fault
        (self._passes.clear if fault is Fault.BLACK_HOLE else self._passes.set)()
        if fault is Fault.REFUSE and self._listener is not None:
            listener, self._listener = self._listener, None
            await stop_listening(listener)
            for connection, to_client in self._connections.items():
                connection.cancel()
                to_client.transport.abort()
            await asyncio.gather(*self._connections, return_exceptions=True)
        elif fault is not Fault.REFUSE and self._listener is None:
            self._listener = await asyncio.start_server(self._take, "127.0.0.1", self.port)

    # Not the task itself: one that is cancelled before its first step would leave its connection.
    def _take(self, client: StreamReader, to_client: StreamWriter) -> None:
        if self._listener is None:
            to_client.transport.abort()
            return
        connection = asyncio.get_running_loop().create_task(self._serve(client, to_client))
        self._connections[connection] = to_client
        connection.add_done_callback(self._connections.pop)

    async def _serve(self, client: StreamReader, to_client: StreamWriter) -> None:
        with contextlib.closing(to_client):
            try:
                server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
                with contextlib.closing(to_server):
                    async with asyncio.TaskGroup() as directions:
                        directions.create_task(self._pass(client, to_server, to_client))
                        directions.create_task(self._pass(server, to_client))
            except* OSError:
                pass  # one of the two has gone: the other one loses its connection too
            except* asyncio.CancelledError:
                to_client.transport.abort()

    async def _pass(
        self, reader: StreamReader, writer: StreamWriter, asker: StreamWriter | None = None
    ) -> None:
        """Pass on what one side says until it has gone; ``asker`` is who waits for an answer."""
        while said := await reader.read(_CHUNK):
            await self._passes.wait()
            if asker is not None and self._fault in _INSTEAD:
                await self._answer(asker, *_INSTEAD[self._fault])
            if asker is None and self._fault is Fault.SWALLOW:
                break
            if asker is not None and self._fault is Fault.SLOW:
                await asyncio.sleep(_SLOW_SECONDS)
            drips = asker is None and self._fault is Fault.DRIP
            for piece in (bytes([byte]) for byte in said) if drips else [said]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(_TICK if drips and self._fault is Fault.DRIP else 0)
        raise ConnectionAbortedError

    async def _answer(self, client: StreamWriter, answer: bytes, piece: bytes) -> None:
        client.write(answer)
        while piece and self._fault is Fault.ENDLESS:
            client.write(piece)
            await client.drain()
        if not answer:
            at_once = struct.pack("ii", 1, 0)
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            client.transport.abort()
        raise ConnectionAbortedError


@contextmanager
def faulty_proxy(port: int) -> Iterator[FaultyProxy]:
    """Run a proxy for the length of the block.

    Args:
        port: of the real server on loopback.
    """
    with start_blocking_portal() as portal:
        proxy = FaultyProxy(port, portal)
        proxy.fault = Fault.NONE
        try:
            yield proxy
        finally:
            proxy.fault = Fault.REFUSE
