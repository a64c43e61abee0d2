"""Backoff: pauses that grow while something is down, and an end to them."""

import asyncio
import contextlib
import time

import structlog

_PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)

log = structlog.get_logger()


class NotFinished(Exception):
    """There is more to do: run again. What was done is stored."""


class Backoff:
    """Pauses after failures, until something succeeds or it has taken too long.

    Args:
        seconds: without a success, after which it gives up.
        stop: ends each pause.
    """

    def __init__(self, seconds: float, stop: asyncio.Event) -> None:
        self._seconds = seconds
        self._stop = stop
        self._since: float | None = None
        self._pauses = 0

    def renew(self) -> None:
        """Begin anew, after a success."""
        self._since, self._pauses = None, 0

    async def pause(self, reason: str) -> None:
        """Wait before the next try.

        Args:
            reason: of the failure, in one line.

        Raises:
            NotFinished: it was stopped, or there was no success for too long.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if now - self._since >= self._seconds:
            raise NotFinished(f"not finished, run it again: {reason}")
        seconds = _PAUSES_SECONDS[min(self._pauses, len(_PAUSES_SECONDS) - 1)]
        seconds = min(seconds, self._since + self._seconds - now)
        self._pauses += 1
        log.warning("rewrap_pauses", seconds=round(seconds, 1), reason=reason)
        await sleep(self._stop, seconds)
        if self._stop.is_set():
            raise stopped()


def stopped() -> NotFinished:
    """Return the error of a run that was stopped."""
    return NotFinished("stopped before the end, run it again: what was done is stored")


async def sleep(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, or wake up when it is stopped."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
