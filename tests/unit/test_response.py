"""A response is sent whole, and waits for a client that does not read."""

from unittest.mock import call, create_autospec

import pytest
from aiohttp.abc import AbstractStreamWriter
from aiohttp.test_utils import make_mocked_request

from custody.http.response import Response


async def sent(response: Response, method: str = "GET") -> tuple[list[bytes], bytes]:
    """Send a response in one write, wait for room, and return its lines and its body."""
    writer = create_autospec(AbstractStreamWriter)
    await response.prepare(make_mocked_request(method, "/", writer=writer))
    await response.write_eof()
    (_, (whole,), _), drained = writer.mock_calls
    assert drained == call.drain()
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
