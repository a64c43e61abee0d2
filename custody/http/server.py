"""The HTTP server of a listener, on aiohttp's low-level server: no application, no middleware.

All that depends on how aiohttp works inside a connection is in this module.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web

from custody.http import problems
from custody.http.middleware import REQUEST_ID, TopHandler, new_request_id
from custody.sockets.addresses import Listener
from custody.sockets.connections import Connections
from custody.sockets.places import Place
from custody.sockets.site import Site, open_site

# Also how long the headers of a request may take: aiohttp has no other limit for them.
KEEPALIVE_SECONDS = 50.0
# For the rest of a body after its response, which a connection that is closed at once may take from
# its client. aiohttp waits for all of it, also when the connection is gone.
LINGERING_SECONDS = 2.0
# After the drain; for clients that do not read their responses.
SHUTDOWN_SECONDS = 2.0

log = structlog.get_logger()


class HttpServer:
    """A server that runs; see :func:`http_server`.

    Args:
        site: takes its connections.
        top_handler: responds to its requests.
        connections: those that it has.

    Attributes:
        address: the first listener's, as clients write it.
    """

    def __init__(self, site: Site, top_handler: TopHandler, connections: Connections) -> None:
        self._site = site
        self._top_handler = top_handler
        self.connections = connections
        self.address = site.address

    async def drain(self) -> None:
        """Take no more connections, and respond to the requests under way."""
        self._top_handler.close_connections = True
        await self._site.stop()
        await self._top_handler.drain()


@asynccontextmanager
async def http_server(
    top_handler: TopHandler,
    listeners: Sequence[Listener],
    connections: Connections,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[HttpServer]:
    """Serve HTTP inside the block.

    Args:
        top_handler: responds to each request.
        listeners: at least one; closed at the end of the block.
        connections: bound them.
        tls: context of the server's certificate, or None for plain HTTP.
    """
    server = web.Server(top_handler.handle)
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    connect = partial(Connection, server, connections)
    try:
        async with open_site(connect, listeners, connections, tls) as site:
            yield HttpServer(site, top_handler, connections)
    finally:
        await runner.cleanup()


def connection_of(request: web.BaseRequest) -> "Connection":
    """Return the connection that a request came by."""
    connection = request.protocol
    if not isinstance(connection, Connection):
        raise TypeError("a request of another server")
    return connection


class Connection(web.RequestHandler):
    """One connection. aiohttp documents no way to set what is overridden here, only the class.

    aiohttp would respond to unreadable HTTP in plain text and quote what it could not read, there
    and in the log; that may be a token.

    Args:
        server: whose handler responds.
        connections: of its listener.
        place: among them.
    """

    def __init__(self, server: web.Server, connections: Connections, place: Place) -> None:
        options: dict[str, Any] = {
            "keepalive_timeout": KEEPALIVE_SECONDS,
            "lingering_time": LINGERING_SECONDS,
            "access_log": None,
            # No route reads a compressed body, and where none is read it may be anything.
            "auto_decompress": False,
        }
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._connections = connections
        self._place = place

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if the peer is known: its address is asked for here, and then remembered.

        A client that has reset its connection already has none any more. It gets no response, and
        what it asked for would be done in nobody's name.
        """
        super().connection_made(transport)
        if self.transport is not None:
            self._place.made(
                abort=self.transport.abort,
                unsent=self.transport.get_write_buffer_size,
                closing=self.transport.is_closing,
            )
        if self.peername is None:
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the place back: only now has the connection really ended."""
        super().connection_lost(exc)
        self._connections.leave(self._place)

    def know(self) -> None:
        """Note that it has brought a good token."""
        self._connections.know(self._place)

    def begin(self) -> None:
        """Note that a request with a good token is under way: nothing closes the connection now."""
        self._place.busy = True

    def end(self) -> None:
        """Note that it has its response."""
        self._place.busy = False

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Respond to what never became a request, or to an error outside of the top handler.

        Raises:
            ConnectionError: there can be no response; the connection is closed.
        """
        del message  # it would quote the request
        if isinstance(exc, MemoryError):
            # What was asked for may have been done. No answer says so; a 500 or 503 would not.
            log.error("out_of_memory")
            raise ConnectionError("no memory for a response") from None
        ours = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if ours:
            log.error("unreadable_request", status=status, error=type(exc).__name__)
        else:
            log.debug("unreadable_request", status=status, error=type(exc).__name__)
        if request.writer is not None and request.writer.output_size > 0:
            raise ConnectionError("a response is under way already")
        if ours:
            problem = problems.internal()
        else:
            problem = problems.bad_request("This is not HTTP/1.1 as this server reads it.")
        response = problem.response()
        response.fields[REQUEST_ID] = new_request_id()
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Log that something broke on a connection, without what aiohttp would quote."""
        del args
        error = kwargs.get("exc_info")
        log.warning("connection_error", error=type(error).__name__)
