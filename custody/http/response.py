"""A response: a small document, written at once."""

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from aiohttp import HttpVersion11, hdrs, web

JSON = "application/json"

# Looked up once: as a member of its class it takes as long as a call.
_NO_CONTENT = HTTPStatus.NO_CONTENT

# What every response of the daemon has.
_SAFE_HEADERS = {
    hdrs.CACHE_CONTROL: "no-store",
    "X-Content-Type-Options": "nosniff",
    hdrs.SERVER: "custody",
}
_SAFE_LINES = "".join(f"{name}: {value}\r\n" for name, value in _SAFE_HEADERS.items())


class Response(web.StreamResponse):
    """A response that is known as a whole before its first byte is sent.

    aiohttp's own response could also be a stream, compressed, chunked or with cookies; to look for
    all that takes longer than to respond.

    Args:
        body: all of it.
        status: HTTP status.
        media_type: of the body.
        headers: beside the safe ones, and those that describe the body. Names and values are ours:
            nothing that a client sent, unless it was compared with what is allowed.

    Attributes:
        fields: these headers, to add to. A plain dict: aiohttp's own ``headers``, which are not
            sent, would cost a twentieth of all that HTTP costs here.
    """

    def __init__(
        self,
        body: bytes,
        *,
        status: int = HTTPStatus.OK,
        media_type: str = JSON,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status=status)
        self.body = body
        self.media_type = media_type
        self.fields: dict[str, str] = dict(headers or {})
        self._persists: bool | None = None

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection persists; None before anybody has decided."""
        return self._persists

    def force_close(self) -> None:
        """Close the connection after this response."""
        self._persists = False

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send it (RFC 9112, section 4)."""
        fields = self.fields
        if self._persists is None:
            self._persists = request.keep_alive
        if not self._persists:
            fields[hdrs.CONNECTION] = "close"
        elif request.version < HttpVersion11:
            fields[hdrs.CONNECTION] = "keep-alive"
        body = self.body
        about = ""
        if self.status != _NO_CONTENT:
            about = f"Content-Type: {self.media_type}\r\nContent-Length: {len(body)}\r\n"
        if request.method == hdrs.METH_HEAD:
            body = b""
        await request.writer.write(self.head(about) + body)
        await request.writer.drain()

    def head(self, about: str) -> bytes:
        """Return all that comes before the body.

        Args:
            about: the lines that describe the body.
        """
        more = "".join([f"{name}: {value}\r\n" for name, value in self.fields.items()])
        return (
            f"HTTP/1.1 {self.status} {self.reason}\r\n{about}"
            f"Date: {_date(int(time.time()))}\r\n{_SAFE_LINES}{more}\r\n"
        ).encode()

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: all is sent."""


@lru_cache(1)
def _date(second: int) -> str:
    """Return a time as HTTP writes it (RFC 9110, section 5.6.7)."""
    return formatdate(second, usegmt=True)
