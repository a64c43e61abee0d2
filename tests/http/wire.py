"""Raw HTTP/1.1 for tests: what no client library would send, and all that comes back."""

import asyncio
import contextlib
import http.client
import io
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import pytest
from multidict import CIMultiDict

from custody.http.routes import BASE_PATH
from custody.sockets.connections import Connections
from custody.sockets.places import Place
from tests.client import Answer
from tests.leaks import remember
from tests.servers import Daemon
from tests.tokens import Issuer

# On a test that shares a daemon with the others of its module.
SHARED = pytest.mark.asyncio(loop_scope="module")

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3}) [^\r\n]*\r\n")


class Greeter(asyncio.Protocol):
    """Says hello, and ends the connection."""

    def __init__(self, _place: Place) -> None:
        super().__init__()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


def unbounded() -> Connections:
    """Room for more connections than a test makes."""
    return Connections(1000, 1000, lambda _peer: False, lambda _reason: None)


async def connect(base: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection to a listener by the URL of what it serves."""
    if base.startswith("unix:"):
        return await asyncio.open_unix_connection(base.removeprefix("unix:").split("/api/")[0])
    where = urlsplit(base)
    return await asyncio.open_connection(where.hostname, where.port)


async def exchange(base: str, sent: bytes = b"") -> bytes:
    """Send bytes, and return all that comes until the server closes the connection."""
    reader, writer = await connect(base)
    try:
        writer.write(sent)
        async with asyncio.timeout(15):
            return await read_to_end(reader)
    finally:
        writer.close()


async def ask(
    daemon: Daemon,
    method: str,
    path: str,
    headers: Mapping[str, str | bytes] | None = None,
    body: bytes = b"",
) -> Answer:
    """Send one request for a path of the vault, and return the one answer to it."""
    sent = request(method, BASE_PATH + path, headers, body)
    (answer,) = parse(await exchange(daemon.base, sent), head=method == "HEAD")
    return answer


async def status_of(daemon: Daemon, issuer: Issuer | None = None) -> int:
    """Ask for alice's status on a connection of its own; the token is of that issuer, if any."""
    token = {"Authorization": remember((issuer or daemon.issuer).bearer("alice"))}
    return (await ask(daemon, "GET", "/status", token)).status


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """Read until the connection ends, in whichever way."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := await reader.read(65536):
            received += chunk
    return received


async def first_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one answer with a body, and leave the connection open."""
    block = await reader.readuntil(b"\r\n\r\n")
    size = re.search(rb"(?i)content-length: (\d+)", block)
    assert size, block
    (answer,) = parse(block + await reader.readexactly(int(size[1])))
    return answer


def request(
    method: str,
    target: str,
    headers: Mapping[str, str | bytes] | None = None,
    body: bytes = b"",
    *,
    close: bool = True,
) -> bytes:
    """Write a request, which asks to close the connection after it unless it is not to."""
    lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: test"]
    lines += [b"Connection: close"] * close
    for name, value in (headers or {}).items():
        raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
        lines.append(name.encode() + b": " + raw)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def parse(received: bytes, *, head: bool = False) -> list[Answer]:
    """Split what came into answers; interim ones (1xx) too.

    Args:
        received: whole answers, one after the other.
        head: whether they answer HEAD, so that none has a body.
    """
    answers, stream = [], io.BytesIO(received)
    while first := stream.readline():
        start = _STATUS_LINE.fullmatch(first)
        assert start, first
        headers = CIMultiDict(http.client.parse_headers(stream).items())
        size = 0 if head else int(headers.get("Content-Length", "0"))
        body = stream.read(size)
        assert len(body) == size
        answers.append(Answer(int(start[1]), headers, body))
    return answers


def assert_safe_headers(answer: Answer) -> None:
    """An answer has the headers that all have."""
    assert answer.headers.get("Cache-Control") == "no-store"
    assert answer.headers.get("X-Content-Type-Options") == "nosniff"
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answer.headers.get("X-Request-Id") or "")
    assert answer.headers.get("Server") == "custody"


def assert_problem(answer: Answer, status: int, code: str, name: str = "") -> None:
    """An answer is this problem, and has room for nothing else; the name is that of a case."""
    assert (answer.status, answer.code) == (status, code), name
    assert_safe_headers(answer)
    assert answer.headers.get("Content-Type") == "application/problem+json"
    body = answer.json
    assert set(body) == {"type", "title", "status", "detail", "code", "error"}
    assert body["status"] == status
    assert all(isinstance(body[name], str) and body[name] for name in set(body) - {"status"})
    assert re.fullmatch(r"[A-Z][A-Z_]*", body["code"])
    assert b"Traceback" not in answer.body
    assert "ETag" not in answer.headers
