"""HTTP servers on loopback, in threads, that answer as a test says: in bytes or in words."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar


class Asked(BaseHTTPRequestHandler):
    """A request with its body, and the ways to answer it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "HttpServer"

    def _answer(self) -> None:
        self.server.connections.add(self.client_address)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self.server.respond(self)
        except OSError:
            self.close_connection = True

    do_GET = do_POST = do_PUT = _answer  # noqa: N815 - names of the library

    def say(
        self, body: bytes = b"", status: int = 200, kind: str = "application/json", **more: str
    ) -> None:
        """Send an answer; ``more`` are headers."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - as its base has it
        """Log nothing."""


class HttpServer(ThreadingHTTPServer):
    """Answers each request by a function; one that ends in an OSError closes the connection.

    ``closing`` is set when the server ends: what waits or drips must look at it.
    """

    # As many may come at once, and be answered in turn.
    request_queue_size = 128

    def __init__(self, respond: Callable[[Asked], None]) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.respond = respond
        self.connections: set[object] = set()
        self.sent = 0
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


def raw_server(answer: Callable[[Asked], Iterable[bytes]]) -> HttpServer:
    """Make a server whose answers are those bytes alone, sent piece by piece."""

    def respond(asked: Asked) -> None:
        for piece in answer(asked):
            asked.wfile.write(piece)
            asked.server.sent += len(piece)

    return HttpServer(respond)


S = TypeVar("S", bound=HttpServer)


@contextlib.contextmanager
def serving(server: S) -> Iterator[S]:
    """Run a server for the length of the block."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
