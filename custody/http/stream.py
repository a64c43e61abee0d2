"""A response that goes on: its parts are sent as they come, and its connection ends with it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus

from aiohttp import web

from custody.http.response import Response
from custody.http.server import connection_of

# Who has not taken a part by then does not read.
_SEND_SECONDS = 10.0


class Stream(Response):
    """Sends the parts of a body of which nobody knows the length.

    Args:
        parts: of the body; closed in the end, whoever ended it.
        media_type: of the body.
        headers: as those of a Response.
    """

    def __init__(
        self, parts: AsyncIterator[bytes], *, media_type: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__(b"", status=HTTPStatus.OK, media_type=media_type, headers=headers)
        self._parts = parts
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send it to its end, or until its client is gone."""
        connection = connection_of(request)
        # It is not closed to make room for another one: its number is bounded where it is made.
        connection.begin()
        try:
            await _send(request, self.head(f"Content-Type: {self.media_type}\r\n"))
            async for part in self._parts:
                await _send(request, part)
        except TimeoutError:
            if connection.transport is not None:
                connection.transport.abort()
        finally:
            connection.end()
            await self.abandon()

    async def abandon(self) -> None:
        """Close the parts; what they hold is given back."""
        close = getattr(self._parts, "aclose", None)
        if close is not None:
            await close()


async def _send(request: web.BaseRequest, data: bytes) -> None:
    async with asyncio.timeout(_SEND_SECONDS):
        await request.writer.write(data)
        await request.writer.drain()
