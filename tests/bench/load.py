"""A small HTTP/1.1 load generator: one request in flight per connection, raw asyncio streams.

It parses no more of an answer than it must, so that the server and not this process is measured.
"""

import asyncio
import time
from dataclasses import dataclass

_OK = b"HTTP/1.1 200"


@dataclass(frozen=True, slots=True)
class Load:
    """What one run measured.

    Args:
        requests: answered with 200.
        errors: answered otherwise.
        seconds: the run took.
        p50: milliseconds, median.
        p99: milliseconds.
    """

    requests: int
    errors: int
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


async def run(port: int, requests: list[bytes], connections: int, seconds: float) -> Load:
    """Send requests in turn over some connections, for some seconds.

    Args:
        port: on 127.0.0.1.
        requests: whole requests as bytes; each connection starts at another one.
        connections: how many at once.
        seconds: how long.
    """
    times: list[float] = []
    errors = 0
    until = time.perf_counter() + seconds

    async def drive(start: int) -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn = start
        while (began := time.perf_counter()) < until:
            writer.write(requests[turn % len(requests)])
            turn += connections
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            times.append(time.perf_counter() - began)
            errors += not head.startswith(_OK)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(drive(number) for number in range(connections)))
    took = time.perf_counter() - began
    ordered = sorted(times)
    return Load(
        requests=len(times) - errors,
        errors=errors,
        seconds=took,
        p50=1000 * ordered[len(ordered) // 2],
        p99=1000 * ordered[len(ordered) * 99 // 100],
    )
