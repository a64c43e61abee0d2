"""The load generator for where there is no compiler: raw asyncio streams.

It parses no more of an answer than it must, and still takes most of a core.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.bench.load import OK, Load, LoadError, Request

_PATIENCE_SECONDS = 15.0
_ENDED = (asyncio.IncompleteReadError, ConnectionError)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer.

    Args:
        status: of HTTP.
        body: all of it.
        last: whether it is the last one of its connection.
    """

    status: int
    body: bytes = field(repr=False)
    last: bool


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read the next answer, and parse no more of it than that.

    Raises:
        LoadError: it is not what a daemon of ours sends.
        asyncio.IncompleteReadError, ConnectionError: the connection has ended.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    body = await reader.readexactly(_length(head))
    return Answer(int(head[9:12]), body, b"\r\nconnection: close" in head)


class PythonGenerator:
    """Sends requests from this process; see :class:`tests.bench.load.Generator`."""

    name = "tests/bench/load_python.py (no C compiler: slow)"

    def run(self, port: int, requests: Sequence[Request], connections: int, seconds: float) -> Load:
        """Send requests; see :class:`tests.bench.load.Generator`."""
        return asyncio.run(_Run(port, requests).measure(connections, seconds))


class _Run:
    """One run.

    Args:
        port: on 127.0.0.1.
        requests: taken in turn by whichever connection is free next.
    """

    def __init__(self, port: int, requests: Sequence[Request]) -> None:
        self._port = port
        self._requests: Iterator[Request] = itertools.cycle(requests)
        self._times: list[int] = []
        self._statuses: Counter[int] = Counter()
        self._broken = self._wrong = self._in_flight = self._last = 0

    async def measure(self, connections: int, seconds: float) -> Load:
        """Drive all connections."""
        opened = [await self._open() for _ in range(connections)]
        began, cpu = time.perf_counter_ns(), time.process_time()
        until = began + int(seconds * 1e9)
        try:
            async with asyncio.timeout(seconds + _PATIENCE_SECONDS):
                await asyncio.gather(*(self._drive(streams, until) for streams in opened))
        except TimeoutError:
            self._broken += self._in_flight
        cpu = time.process_time() - cpu
        return Load(
            times=sorted(self._times),
            seconds=((self._last or time.perf_counter_ns()) - began) / 1e9,
            cpu=cpu,
            statuses=dict(self._statuses),
            broken=self._broken,
            wrong=self._wrong,
        )

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_connection("127.0.0.1", self._port)
        except OSError as error:
            raise LoadError(f"can't connect: {error.strerror}") from None

    async def _drive(
        self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], until: int
    ) -> None:
        reader, writer = streams
        try:
            while (began := time.perf_counter_ns()) < until:
                self._in_flight += 1
                closed = not await self._ask(reader, writer, began)
                self._in_flight -= 1
                if closed and time.perf_counter_ns() < until:
                    writer.close()
                    reader, writer = await self._open()
        finally:
            writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, began: int
    ) -> bool:
        """Send the next request, and say whether the connection may be used again."""
        request = next(self._requests)
        try:
            writer.write(request.text)
            answer = await read_answer(reader)
        except _ENDED:
            self._broken += 1
            return False
        self._last = time.perf_counter_ns()
        self._times.append(self._last - began)
        self._statuses[answer.status] += 1
        self._wrong += answer.status == OK and request.expected not in answer.body
        return not answer.last


def _length(head: bytes) -> int:
    if not head.startswith(b"http/1.1 "):
        raise LoadError("an answer is not HTTP/1.1")
    given = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    if not given and not head.startswith(b"http/1.1 204"):
        raise LoadError("an answer has no Content-Length")
    return int(given or 0)
