"""Stands before an OpenBao; answers 500 to a wrap that does not open, as some Vaults do."""

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

from tests.bao_server import Bao

TEXT = "cipher: message authentication failed"


@dataclass
class Front:
    """Where it is, and the paths that were called."""

    address: str
    calls: list[str] = field(default_factory=list)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    front: Front
    port: int
    whole: bool


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        server = cast("_Server", self.server)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        behind = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        headers = {name: value for name, value in self.headers.items() if name != "Host"}
        behind.request(self.command, self.path, body, headers)
        response = behind.getresponse()
        status, answer = response.status, response.read()
        behind.close()
        server.front.calls.append(self.path.removeprefix("/v1/transit/").partition("/")[0])
        if TEXT.encode() in answer:
            status = 500
            if server.whole:
                answer = json.dumps({"errors": [TEXT]}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = _pass_on  # noqa: N815 - names of the library

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def front_of(bao: Bao, *, whole: bool) -> Iterator[Front]:
    """Run it for the length of the block.

    Args:
        bao: the server behind.
        whole: whether one wrap of a batch that does not open fails the whole call, without a word
            on the others.
    """
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.front = Front(f"http://127.0.0.1:{server.server_address[1]}")
        server.port, server.whole = bao.port, whole
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.front
        finally:
            server.shutdown()
            thread.join(10)
