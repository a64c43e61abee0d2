"""Requests to a daemon without a pause, each on its own connection, and what became of them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.leaks import remember
from tests.servers import Daemon

_SECONDS = 60
_ONE_ANSWER = b"HTTP/1.1 200 "


@dataclass(frozen=True)
class Request:
    """One request.

    Args:
        begun: when it began to connect, in seconds of the monotonic clock.
        seconds: how long it took.
        problem: what it got instead of an answer 200, if it did.
    """

    begun: float
    seconds: float
    problem: str | None


@dataclass
class Load:
    """What was sent so far."""

    requests: list[Request] = field(default_factory=list)

    def lost(self, *, since: float = 0, until: float = float("inf")) -> list[Request]:
        """Return the requests without an answer 200 that began within a time."""
        return [one for one in self.requests if one.problem and since <= one.begun < until]

    def begun(self, *, since: float) -> int:
        """Count the requests that began after a moment."""
        return sum(one.begun >= since for one in self.requests)

    def figure(self, fault: str, moments: list[tuple[float, float]]) -> str:
        """Say what was lost.

        Args:
            fault: what happened, once or more often.
            moments: when each began, and when its effect was there.
        """
        after = sum(one.begun >= moments[0][1] for one in self.requests)
        slowest = max(one.seconds for one in self.requests)
        return (
            f"{fault}, {len(moments)} times: {len(self.requests)} requests, {after} of them begun "
            f"after the first; lost: {len(self.lost())}, of those not yet accepted: "
            f"{len(self.lost_though_waiting(moments))}; the slowest took {slowest:.1f} s"
        )

    def lost_though_waiting(self, moments: list[tuple[float, float]]) -> list[Request]:
        """Return the lost requests that no process which a fault hit can have accepted.

        Args:
            moments: as of :meth:`figure`.
        """

        def hit(one: Request) -> bool:
            return any(
                one.begun < gone and one.begun + one.seconds > told for told, gone in moments
            )

        return [one for one in self.lost() if not hit(one)]


@asynccontextmanager
async def load(daemon: Daemon, user: str, clients: int = 16) -> AsyncIterator[Load]:
    """Send requests for the length of the block.

    Args:
        daemon: where to.
        user: one who has a vault.
        clients: how many requests are under way at any time.
    """
    address = urlsplit(daemon.base)
    token = remember(daemon.issuer.token(user))
    sent = (
        f"GET {address.path}/key HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Authorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    ).encode()
    seen, stop = Load(), asyncio.Event()

    async def client() -> None:
        while not stop.is_set():
            begun = time.monotonic()
            problem = await _ask(address.port or 0, sent)
            seen.requests.append(Request(begun, time.monotonic() - begun, problem))
            if problem:
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client())
        try:
            yield seen
        finally:
            stop.set()


async def _ask(port: int, sent: bytes) -> str | None:
    """Return what went wrong, or None."""
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(sent)
                answer = await reader.read()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError) as error:
        return type(error).__name__
    if answer.startswith(_ONE_ANSWER):
        return None
    return answer[:13].decode("ascii", "replace") or "closed"
