"""Requests to a daemon without a pause, and what became of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.http.wire import connect, first_answer, request
from tests.leaks import remember
from tests.servers import Daemon

_SECONDS = 60


@dataclass(frozen=True)
class Request:
    """One request.

    Args:
        begun: when it was sent, in seconds of the monotonic clock.
        ended: when its answer was there, or lost.
        problem: what it got instead of an answer 200: another status, or an error.
    """

    begun: float
    ended: float
    problem: int | Exception | None


@dataclass
class Load:
    """What was sent so far."""

    requests: list[Request] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """How many had an answer 200, whole."""
        return sum(one.problem is None for one in self.requests)

    @property
    def refused(self) -> list[Request]:
        """Those with another answer."""
        return [one for one in self.requests if isinstance(one.problem, int)]

    def lost(self, *, before: float = float("inf")) -> list[Request]:
        """Return those without an answer 200 that began before a moment."""
        return [one for one in self.requests if one.problem and one.begun < before]


@asynccontextmanager
async def load(
    daemon: Daemon, users: Sequence[str], path: str = "/key", *, keep_alive: bool = False
) -> AsyncIterator[Load]:
    """Send requests for the length of the block.

    Args:
        daemon: where to.
        users: each has one request under way at any time.
        path: of a route that is answered with JSON.
        keep_alive: each user has one connection, and stops when that ends; else each request has
            a connection of its own.
    """
    seen, stop = Load(), asyncio.Event()
    target = urlsplit(daemon.base).path + path

    async def send(user: str) -> None:
        token = {"Authorization": remember(daemon.issuer.bearer(user))}
        sent, stream = request("GET", target, token, close=not keep_alive), None
        while not stop.is_set():
            begun = time.monotonic()
            problem: int | Exception | None = None
            try:
                async with asyncio.timeout(_SECONDS):
                    stream = stream or await connect(daemon.base)
                    stream[1].write(sent)
                    answer = await first_answer(stream[0])
                problem = None if answer.status == 200 and answer.json else answer.status
            except (OSError, EOFError) as error:
                problem = error
            seen.requests.append(Request(begun, time.monotonic(), problem))
            goes_on = keep_alive and problem is None and not stop.is_set()
            if stream and not goes_on:
                stream[1].close()
                stream = None
            if problem:
                if keep_alive:
                    return
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        for user in users:
            tasks.create_task(send(user))
        try:
            yield seen
        finally:
            stop.set()
