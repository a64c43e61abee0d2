"""A TCP proxy on loopback that breaks as networks and servers do, for a real server behind it."""

import asyncio
import contextlib
import socket
import struct
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from enum import Enum, auto

from tests.ports import free_port

_CHUNK = 64 * 1024
_TICK = 0.05
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"


class Fault(Enum):
    """What the proxy does with bytes, also on connections that it already has."""

    NONE = auto()
    REFUSE = auto()  # nobody listens, and what was open is closed
    RESET = auto()  # each connection is reset when it sends something
    BLACK_HOLE = auto()  # half-open: connections are taken and kept, nothing comes through
    DRIP = auto()  # answers come a byte at a time, and never end in time
    ENDLESS = auto()  # the answer's body never ends, as fast as it can
    GARBAGE = auto()  # an answer that is no JSON, with status 200


class FaultyProxy:
    """Runs in the event loop of another thread; ``fault`` may be set at any time.

    Args:
        port: of the real server on loopback.
        loop: that runs in another thread.
    """

    def __init__(self, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self._target = port
        self._loop = loop
        self.port = free_port()
        self._fault = Fault.NONE
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
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
        asyncio.run_coroutine_threadsafe(self._become(fault), self._loop).result(10)

    async def _become(self, fault: Fault) -> None:
        self._fault = fault
        (self._passes.clear if fault is Fault.BLACK_HOLE else self._passes.set)()
        if fault is Fault.REFUSE and self._listener is not None:
            self._listener.close()
            self._listener = None
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
        elif fault is not Fault.REFUSE and self._listener is None:
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _serve(self, client: StreamReader, to_client: StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        with contextlib.closing(to_client):
            try:
                server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
                with contextlib.closing(to_server):
                    async with asyncio.TaskGroup() as directions:
                        directions.create_task(self._ask(client, to_server, to_client))
                        directions.create_task(self._answer(server, to_client))
            except* OSError:
                pass  # one of the two has gone: the other one loses its connection too
            except* asyncio.CancelledError:
                to_client.transport.abort()

    async def _ask(self, client: StreamReader, server: StreamWriter, back: StreamWriter) -> None:
        async for asked in self._passed(client):
            if self._fault in (Fault.RESET, Fault.GARBAGE, Fault.ENDLESS):
                await self._answer_itself(back)
            server.write(asked)
            await server.drain()

    async def _answer(self, server: StreamReader, client: StreamWriter) -> None:
        async for answer in self._passed(server):
            drips = self._fault is Fault.DRIP
            for piece in (bytes([byte]) for byte in answer) if drips else [answer]:
                client.write(piece)
                await client.drain()
                if self._fault is Fault.DRIP:
                    await asyncio.sleep(_TICK)

    async def _passed(self, reader: StreamReader) -> AsyncIterator[bytes]:
        """Yield what comes, when something may pass; raise at the end."""
        while piece := await reader.read(_CHUNK):
            await self._passes.wait()
            yield piece
        raise ConnectionAbortedError

    async def _answer_itself(self, client: StreamWriter) -> None:
        if self._fault is Fault.RESET:
            at_once = struct.pack("ii", 1, 0)
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            client.transport.abort()
        elif self._fault is Fault.GARBAGE:
            client.write(_HEAD + b"Content-Length: 13\r\n\r\n<html></html>")
        else:
            client.write(_HEAD + b'\r\n{"data": "')
            while self._fault is Fault.ENDLESS:
                client.write(b"x" * _CHUNK)
                await client.drain()
        raise ConnectionAbortedError


@contextmanager
def faulty_proxy(port: int) -> Iterator[FaultyProxy]:
    """Run a proxy for the length of the block.

    Args:
        port: of the real server on loopback.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    proxy = FaultyProxy(port, loop)
    proxy.fault = Fault.NONE
    try:
        yield proxy
    finally:
        proxy.fault = Fault.REFUSE
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
