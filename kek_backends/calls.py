"""Calls of a blocking SDK: bounded threads, deadlines, retries and a breaker, for each KMS its own.

A KMS that hangs can block neither the event loop, nor the name resolution of others, nor the users
of another KEK.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random

from kek_backends import bounded_http
from kek_backends.breaker import Breaker
from kek_backends.errors import KekError, Transient
from kek_backends.uri import KekUri

CONCURRENT_CALLS = 16
# One try, then a whole call with its retries: shorter than the five seconds that a request waits
# for a KEK, so that the reason of a failure is the KMS's own.
ATTEMPT_SECONDS = 2.0
CALL_SECONDS = 4.5
_ATTEMPTS = 3
_PAUSE_SECONDS = 0.3
# Refreshes and logins must go through while the calls of users fill their threads.
_SPARE_THREADS = 2

T = TypeVar("T")


class KmsCalls:
    """Makes the calls of one KEK.

    Args:
        uri: which key, for messages and the threads' names.
        translate: returns our error for one of the SDK's.
    """

    def __init__(self, uri: KekUri, translate: Callable[[Exception], KekError]) -> None:
        self._uri = uri
        self._translate = translate
        self._threads = ThreadPoolExecutor(
            CONCURRENT_CALLS + _SPARE_THREADS, thread_name_prefix=f"kek-{uri.scheme}"
        )
        self._turns = asyncio.Semaphore(CONCURRENT_CALLS)
        self._breaker = Breaker()
        # Of the last call that was made: the reason for one that the breaker refuses.
        self._last_failure = ""
        # Takes how each call ended, and its seconds; see KekBackend.observe.
        self.called: Callable[[str, float], None] = _unheard

    def close(self) -> None:
        """Give the threads back; one that still waits ends within seconds by its own deadline."""
        # What waits for a thread still runs: cancelled here, it would look to its caller as if
        # the caller itself had been cancelled.
        self._threads.shutdown(wait=False)

    @property
    def is_suspended(self) -> bool:
        """Whether the breaker is open."""
        return self._breaker.is_open

    def close_breaker(self) -> None:
        """Admit calls again: the KMS is back."""
        self._breaker.succeeded()

    async def persist(self, once: Callable[[], Awaitable[T]], *, trial: bool = False) -> T:
        """Make a call when the breaker admits it; retry it while the failure is transient.

        Args:
            once: makes one try.
            trial: whether it is to show if the KMS is back: then the breaker is not asked.
        """

        async def retried() -> T:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(Transient),
                stop=stop_after_attempt(_ATTEMPTS),
                wait=wait_random(0, _PAUSE_SECONDS),
                reraise=True,
            ):
                with attempt:
                    return await once()
            raise AssertionError

        if not trial and not self._breaker.admits():
            self.called("not-asked", 0.0)
            raise Transient(
                f"{self._uri.text}: not asked: its last calls failed; it is tried every second "
                f"({self._last_failure})"
            )
        began, outcome = time.monotonic(), "cancelled"
        try:
            result = await self.within_deadline(retried)
            outcome = "ok"
        except Transient as error:
            outcome = "unavailable"
            self._last_failure = str(error)
            self._breaker.failed()
            raise
        except KekError:
            outcome = "refused"
            self._breaker.succeeded()  # it answered
            raise
        finally:
            self.called(outcome, time.monotonic() - began)
        self._breaker.succeeded()
        return result

    async def within_deadline(self, work: Callable[[], Awaitable[T]]) -> T:
        """Bound a whole call with its retries.

        Raises:
            Transient: it took too long.
        """
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await work()
        except TimeoutError:
            raise Transient(f"{self._uri.text}: no answer within {CALL_SECONDS} s") from None

    async def in_turn(self, work: Callable[[], T]) -> T:
        """Run blocking work in one of the threads for users' calls; wait until one is free."""
        await self._turns.acquire()
        loop = asyncio.get_running_loop()

        def give_back(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._turns.release)

        return await self.run(work, give_back)

    async def run(
        self, work: Callable[[], T], ended: Callable[["Future[T]"], None] | None = None
    ) -> T:
        """Run blocking work in a thread, within the seconds of one try.

        Args:
            work: makes one call of the SDK.
            ended: called when the thread is done, maybe after the caller has given up.

        Raises:
            KekError: what the work raised, translated.
        """
        try:
            running = self._threads.submit(self._bounded, work)
        except RuntimeError:
            if ended is not None:
                ended(Future())
            raise Transient(f"{self._uri.text}: closed") from None
        if ended is not None:
            # When the thread ends, not when its caller gives up: a turn is a thread.
            running.add_done_callback(ended)
        return await asyncio.wrap_future(running)

    def _bounded(self, work: Callable[[], T]) -> T:
        """Run in a thread; nothing but a KekError leaves it, without a trace of the SDK's."""
        try:
            with bounded_http.deadline(time.monotonic() + ATTEMPT_SECONDS):
                return work()
        except KekError as error:
            ours = error
        except Exception as error:  # noqa: BLE001 - the SDK's exception may hold plaintext
            ours = self._translate(error)
        # Raised here, it has no context: that would hold the SDK's exception and its frames.
        ours.__cause__ = ours.__context__ = None
        raise ours


def _unheard(_outcome: str, _seconds: float) -> None:
    """Nobody asked to be told of calls."""
