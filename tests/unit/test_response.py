"""A response is sent whole, and waits for a client that does not read."""

from typing import Any

import pytest
from aiohttp.abc import AbstractStreamWriter
from aiohttp.test_utils import make_mocked_request

from custody.http.response import Response


class Recorder(AbstractStreamWriter):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def write(self, chunk: Any) -> None:
        """Keep it."""
        self.calls.append(bytes(chunk))

    async def drain(self) -> None:
        """Keep that it was asked for."""
        self.calls.append("drained")

    async def write_eof(self, chunk: bytes = b"") -> None:
        """Nobody calls this."""
        raise NotImplementedError

    async def write_headers(self, status_line: str, headers: Any) -> None:
        """Nobody calls this."""
        raise NotImplementedError

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        """Nobody calls this."""
        raise NotImplementedError

    def enable_chunking(self) -> None:
        """Nobody calls this."""
        raise NotImplementedError


async def sent(response: Response, method: str = "GET") -> tuple[list[bytes], bytes]:
    """Send a response in one write, wait for room, and return its lines and its body."""
    writer = Recorder()
    await response.prepare(make_mocked_request(method, "/", writer=writer))
    await response.write_eof()
    whole, drained = writer.calls
    assert drained == "drained"
    head, _, body = whole.partition(b"\r\n\r\n")
    return head.split(b"\r\n"), body


async def test_head_and_body_leave_together() -> None:
    lines, body = await sent(Response(b'{"ok":true}', headers={"ETag": '"7"'}))
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert body == b'{"ok":true}'
    assert sorted(line for line in lines[1:] if not line.startswith(b"Date: ")) == [
        b"Cache-Control: no-store",
        b"Content-Length: 11",
        b"Content-Type: application/json",
        b'ETag: "7"',
        b"Server: custody",
        b"X-Content-Type-Options: nosniff",
    ]


async def test_head_has_the_length_and_no_body() -> None:
    lines, body = await sent(Response(b"abc", status=405), "HEAD")
    assert (lines[0], body) == (b"HTTP/1.1 405 Method Not Allowed", b"")
    assert b"Content-Length: 3" in lines


async def test_no_content_has_neither_length_nor_type() -> None:
    lines, body = await sent(Response(b"", status=204))
    assert (lines[0], body) == (b"HTTP/1.1 204 No Content", b"")
    assert not [line for line in lines if line.startswith(b"Content-")]


@pytest.mark.parametrize("ends", [True, False])
async def test_connection_that_is_to_end(ends: bool) -> None:
    response = Response(b"{}")
    if ends:
        response.force_close()
    lines, _ = await sent(response)
    assert (b"Connection: close" in lines) is ends
    assert response.keep_alive is not ends
