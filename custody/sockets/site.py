"""Takes connections from listeners, and gives each to a server's protocol.

A server of asyncio's own would drop connections that it has taken, and not yet given a transport,
when it is closed; uvloop's would take all that wait in one turn, so that other processes get none.
"""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import structlog

from custody.sockets.addresses import Listener
from custody.sockets.connections import LOOK_SECONDS, Connections
from custody.sockets.places import Place

# Connections taken in one turn of the loop: what one process leaves, another one takes.
_TAKEN_AT_ONCE = 16
# A slow network's round trip, or what a busy machine keeps a client waiting.
_FIRST_REQUEST_SECONDS = 0.25
HANDSHAKE_SECONDS = 20.0
# For the goodbye of a client that may not read any more.
TLS_SHUTDOWN_SECONDS = 5.0
# For handshakes that are under way at the stop.
_LAST_HANDSHAKES_SECONDS = 2.0
# The process or the machine has no more descriptors or memory for now.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_SECONDS = 1.0

log = structlog.get_logger()


class Site:
    """Takes connections until it is stopped; then the listeners are closed.

    Args:
        server: makes the protocol of a connection that has a place.
        listeners: at least one.
        connections: bound them.
        tls: context of the server's certificate, or None for plain HTTP.

    Attributes:
        address: the first listener's, as clients write it; also once it is closed.
    """

    def __init__(
        self,
        server: Callable[[Place], asyncio.BaseProtocol],
        listeners: Sequence[Listener],
        connections: Connections,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._server = server
        self._listeners = listeners
        self._connections = connections
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._pause: dict[Listener, asyncio.TimerHandle] = {}
        self._handing_over: set[asyncio.Task[None]] = set()
        self._stopped = False
        self.address = _address(listeners[0], "https" if tls else "http")
        for listener in listeners:
            listener.setblocking(False)
            self._listen(listener)
        self._look = self._loop.call_later(LOOK_SECONDS, self._close_unread)

    async def stop(self) -> None:
        """Leave new connections to whoever listens next, and wait for those that were just taken.

        Their first requests are on their way: no client has seen its connection refused.
        """
        if self._stopped:
            return
        self._stopped = True
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
        for pause in self._pause.values():
            pause.cancel()
        self._pause.clear()
        self._look.cancel()
        await asyncio.sleep(_FIRST_REQUEST_SECONDS)
        for listener in self._listeners:
            listener.close()
        if self._handing_over:
            await asyncio.wait(self._handing_over, timeout=_LAST_HANDSHAKES_SECONDS)
            await asyncio.sleep(_FIRST_REQUEST_SECONDS)
        for task in self._handing_over:
            task.cancel()

    def _listen(self, listener: Listener) -> None:
        self._pause.pop(listener, None)
        self._loop.add_reader(listener.fileno(), self._take, listener)

    def _take(self, listener: Listener) -> None:
        for _ in range(_TAKEN_AT_ONCE):
            try:
                connection, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                log.error(  # noqa: TRY400 - its frames say nothing
                    "connections_wait",
                    reason=error.strerror,
                    cure="raise the limit of open files (LimitNOFILE=), or find who uses them",
                )
                self._loop.remove_reader(listener.fileno())
                self._pause[listener] = self._loop.call_later(
                    _PAUSE_SECONDS, self._listen, listener
                )
                return
            place = self._connections.take(peer[0] if isinstance(peer, tuple) else "")
            if place is None:
                connection.close()
                continue
            connection.setblocking(False)
            task = self._loop.create_task(self._hand_over(connection, place))
            place.abort = task.cancel
            self._handing_over.add(task)
            task.add_done_callback(self._handing_over.discard)

    async def _hand_over(self, connection: socket.socket, place: Place) -> None:
        with contextlib.ExitStack() as unless_made:
            unless_made.callback(self._connections.leave, place)
            # Who breaks off before the first byte, or speaks no TLS, is nobody's error but its own.
            with contextlib.suppress(OSError, TimeoutError):
                await self._loop.connect_accepted_socket(
                    partial(self._server, place),
                    connection,
                    ssl=self._tls,
                    ssl_handshake_timeout=HANDSHAKE_SECONDS if self._tls else None,
                    ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS if self._tls else None,
                )
                # From here on the connection gives its place back.
                unless_made.pop_all()

    def _close_unread(self) -> None:
        self._connections.close_unread()
        self._look = self._loop.call_later(LOOK_SECONDS, self._close_unread)


@asynccontextmanager
async def open_site(
    server: Callable[[Place], asyncio.BaseProtocol],
    listeners: Sequence[Listener],
    connections: Connections,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Site]:
    """Take connections for the length of the block; see :class:`Site`."""
    site = Site(server, listeners, connections, tls)
    try:
        yield site
    finally:
        await site.stop()


def _address(listener: Listener, scheme: str) -> str:
    bound = listener.getsockname()
    if isinstance(bound, str | bytes):
        return f"unix:{os.fsdecode(bound)}"
    host = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
    return f"{scheme}://{host}:{bound[1]}"
