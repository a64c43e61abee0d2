"""Server-sent events: the parts of the page that have changed, to all that have it open."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from custody.console.page import Page, utc_now
from custody.console.reading import Reader
from custody.http import problems
from custody.http.stream import Stream

# Of one process, and of one page: a browser that is still there comes back.
MOST = 16
LONGEST_SECONDS = 15 * 60.0
EVERY_SECONDS = 1.0
_RETRY_MILLISECONDS = 3000


class Streams:
    """Those that are open.

    Args:
        reader: reads what is shown; all streams share it.
        page: renders it; the same.
    """

    def __init__(self, reader: Reader, page: Page) -> None:
        self._reader = reader
        self._page = page
        self._open = 0
        self._none = asyncio.Event()
        self._none.set()
        self._ending = asyncio.Event()

    def open(self, headers: Mapping[str, str]) -> Stream:
        """Return a response that goes on until its end.

        Args:
            headers: of it.

        Raises:
            Problem: 503, there are too many, or the daemon stops.
        """
        if self._open >= MOST or self._ending.is_set():
            raise problems.unavailable("OVERLOADED", "Too many consoles are open.")
        return Stream(self._events(), media_type="text/event-stream", headers=headers)

    async def end(self) -> None:
        """End all of them, at once."""
        self._ending.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._none.wait()

    async def _events(self) -> AsyncIterator[bytes]:
        self._open += 1
        self._none.clear()
        try:
            yield f"retry: {_RETRY_MILLISECONDS}\n\n".encode()
            until = asyncio.get_running_loop().time() + LONGEST_SECONDS
            sent: Mapping[str, str] = {}
            while not self._ending.is_set() and asyncio.get_running_loop().time() < until:
                snapshot, now = await self._reader.read(), utc_now()
                parts = self._page.parts(snapshot, now)
                changed = {name: html for name, html in parts.items() if sent.get(name) != html}
                sent = parts
                # The time is the heartbeat, too.
                yield b"".join(
                    [
                        *(_event(name, html) for name, html in changed.items()),
                        _event("level", snapshot.verdict.level),
                        _event("time", f"{now:%H:%M:%S}"),
                    ]
                )
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), EVERY_SECONDS)
        finally:
            self._open -= 1
            if not self._open:
                self._none.set()


def _event(name: str, data: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in data.splitlines())
    return f"event: {name}\n{lines}\n".encode()
