"""Honest users: they ask for their keys at a steady pace, and note what they see.

Each request has its moment. One that could not be sent then, since the answer before had not come,
counts from that moment all the same: who is kept waiting is not left out of the figures.
"""

import asyncio
import contextlib
import itertools
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from tests.bench.load import OK, LoadError, Request, percentile
from tests.bench.load_python import read_answer

# Those that stay keep their connections; beside them come new ones, a new connection each.
STAYING, ASKED_A_SECOND, COMING_A_SECOND = 8, 24, 8
PATIENCE_SECONDS = 5.0
_LONG_SECONDS = 0.5

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request and what became of it.

    Args:
        due: the moment at which it was to be sent; monotonic, seconds.
        seconds: from then to its answer, or to where it was given up.
        error: what was wrong; None: it was the right answer.
    """

    due: float
    seconds: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What honest users saw in some seconds.

    Args:
        requests: how many.
        errors: all that was not the right answer, by kind.
        p50: milliseconds.
        p99: milliseconds.
    """

    requests: int
    errors: Mapping[str, int]
    p50: float
    p99: float


def seen(asked: Sequence[Asked]) -> Seen:
    """Boil requests down."""
    times = sorted(int(one.seconds * 1e9) for one in asked)
    errors = Counter(one.error for one in asked if one.error is not None)
    p50, p99 = (percentile(times, percent) / 1e6 for percent in (50, 99))
    return Seen(len(asked), dict(sorted(errors.items())), p50, p99)


class Honest:
    """Honest users of a daemon.

    Args:
        port: of its vault, on 127.0.0.1.
        requests: of whom the keys are asked for, in turn.
        tls: how the daemon is spoken to; None: in clear.
    """

    def __init__(
        self, port: int, requests: Sequence[Request], tls: ssl.SSLContext | None = None
    ) -> None:
        self._port = port
        self._requests: Iterator[Request] = itertools.cycle(requests)
        self._tls = tls
        self._asked: list[Asked] = []
        self._waiting: dict[object, float] = {}

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Ask for the length of the block; at its end the last answers are waited for."""
        stop = asyncio.Event()
        gaps = [number / STAYING / ASKED_A_SECOND for number in range(STAYING)]
        tasks = [asyncio.create_task(self._stay(stop, gap)) for gap in gaps]
        tasks.append(asyncio.create_task(self._come(stop)))
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    def between(self, begin: float, end: float) -> Seen:
        """Return what was seen of requests that were due in these seconds; monotonic."""
        return seen([one for one in self._asked if begin <= one.due < end])

    def is_kept_waiting(self) -> bool:
        """Say whether a request has waited for its answer for half a second."""
        now = time.monotonic()
        return min(self._waiting.values(), default=now) < now - _LONG_SECONDS

    async def _stay(self, stop: asyncio.Event, gap: float) -> None:
        """Ask on one connection, which is opened anew where it ends."""
        streams: Streams | None = None
        free = 0.0
        async for due in _moments(stop, gap, ASKED_A_SECOND):
            # Where nothing was in the way and we are late ourselves, it is not the daemon's doing.
            began = due if free > due else time.monotonic()
            streams = await self._ask(due, began, streams)
            free = time.monotonic()
        if streams is not None:
            streams[1].transport.abort()

    async def _come(self, stop: asyncio.Event) -> None:
        """Ask on a connection that is new each time; nobody waits for another one's answer."""

        async def come(due: float) -> None:
            streams = await self._ask(due, time.monotonic(), None)
            if streams is not None:
                streams[1].transport.abort()

        async with asyncio.TaskGroup() as group:
            async for due in _moments(stop, 0.0, COMING_A_SECOND):
                group.create_task(come(due))

    async def _ask(self, due: float, began: float, streams: Streams | None) -> Streams | None:
        """Send the next request; return the connection where it may be used again."""
        me = asyncio.current_task()
        self._waiting[me] = began
        error: str | None = None
        last = False
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                if streams is None:
                    streams = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)
                request = next(self._requests)
                streams[1].write(request.text)
                answer = await read_answer(streams[0])
            last = answer.last
            if answer.status != OK:
                error = str(answer.status)
            elif request.expected not in answer.body:
                error = "wrong"
        except TimeoutError:
            error = "no answer"
        except (OSError, EOFError, LoadError) as failure:
            error = type(failure).__name__
        del self._waiting[me]
        self._asked.append(Asked(due, time.monotonic() - began, error))
        if streams is not None and (last or error):
            streams[1].transport.abort()
            return None
        return streams


async def _moments(stop: asyncio.Event, gap: float, rate: int) -> AsyncIterator[float]:
    """Yield moments, so many a second, each when it has come, until it is time to stop."""
    began = time.monotonic() + gap
    for number in itertools.count():
        due = began + number / rate
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due - time.monotonic())):
                await stop.wait()
        if stop.is_set():
            return
        yield due
