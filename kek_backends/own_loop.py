"""An event loop in a thread of its own, for code that nobody here has read.

Whatever that code does in it (block, hang, raise SystemExit), whoever asks has an answer in time,
and nothing but a KekError. What it can do to the whole process (end it, hold the interpreter, use
up its memory or its descriptors) no thread prevents.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

import structlog

from kek_backends.errors import KekError, Transient

# More calls than that under way are calls that hang.
MOST_CALLS = 256

T = TypeVar("T")

log = structlog.get_logger()


class OwnLoop:
    """Runs the calls of one backend.

    Args:
        name: of the backend, as messages show it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._log_stray)
        self._lock = threading.Lock()
        self._calls = 0
        self._closed = False
        # A daemon: one that is blocked for ever keeps no process from ending.
        threading.Thread(target=self._run, name=f"kek-{name}"[:60], daemon=True).start()

    async def call(self, make: Callable[[], Awaitable[T]], doing: str, seconds: float) -> T:
        """Run a coroutine there, and wait for it.

        Args:
            make: makes it, in the thread.
            doing: for messages.
            seconds: how long it may take.

        Raises:
            KekError: its own, or a Transient that says what became of it.
        """
        begun = threading.Event()

        async def work() -> T:
            begun.set()
            return await make()

        done = self._start(work, doing)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(done)
        except TimeoutError:
            raise self._late(doing, seconds, blocked=not begun.is_set()) from None

    def call_now(self, make: Callable[[], T], doing: str, seconds: float) -> T:
        """Run a function there, and block until it returns; as :meth:`call`."""
        begun = threading.Event()

        async def work() -> T:
            begun.set()
            return make()

        done = self._start(work, doing)
        try:
            return done.result(seconds)
        except TimeoutError:
            done.cancel()
            raise self._late(doing, seconds, blocked=not begun.is_set()) from None
        except CancelledError:
            raise Transient(f"{self._name}: {doing} was cancelled from within") from None

    def tell(self, make: Callable[[], object]) -> None:
        """Run a function there some time; nobody waits for it."""

        async def work() -> None:
            make()

        with contextlib.suppress(KekError):
            self._start(work, "telling")

    def close(self) -> None:
        """End the thread, as soon as it is not blocked."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _start(self, work: Callable[[], Awaitable[T]], doing: str) -> "Future[T]":
        done: Future[T] = Future()

        def begin() -> None:
            if done.cancelled():
                self._ended()
                return
            task = self._loop.create_task(self._guarded(work, doing))
            task.add_done_callback(lambda ended: self._finish(done, ended))
            done.add_done_callback(lambda _: self._cancel(task))

        with self._lock:
            if self._closed:
                raise Transient(f"{self._name}: closed")
            if self._calls >= MOST_CALLS:
                raise Transient(f"{self._name}: {MOST_CALLS} calls hang in the backend")
            self._calls += 1
            self._loop.call_soon_threadsafe(begin)
        return done

    async def _guarded(self, work: Callable[[], Awaitable[T]], doing: str) -> T:
        """Let a KekError out, and our own cancellation; of all else the type."""
        task = asyncio.current_task()
        try:
            return await work()
        except (KekError, ImportError) as error:
            # Not only hidden, as "from None" does: a log shipper may look at them all the same.
            error.__cause__ = error.__context__ = None
            raise
        except asyncio.CancelledError:
            if task is not None and task.cancelling():
                raise
            kind = "CancelledError"
        except BaseException as error:  # noqa: BLE001 - SystemExit would end the loop
            kind = type(error).__name__
        raise Transient(f"{self._name}: {kind} while {doing}")

    def _finish(self, done: "Future[T]", task: "asyncio.Task[T]") -> None:
        self._ended()
        if not done.set_running_or_notify_cancel():
            return
        if task.cancelled():
            done.set_exception(Transient(f"{self._name}: cancelled"))
        elif error := task.exception():
            done.set_exception(error)
        else:
            done.set_result(task.result())

    def _cancel(self, task: "asyncio.Task[Any]") -> None:
        """Pass on that the caller has given up."""
        if not task.done():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(task.cancel)

    def _ended(self) -> None:
        with self._lock:
            self._calls -= 1

    def _late(self, doing: str, seconds: float, *, blocked: bool) -> Transient:
        why = ": the backend blocks its event loop" if blocked else ""
        return Transient(f"{self._name}: {doing}: no answer within {seconds:g} s{why}")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._closed:
            try:
                self._loop.run_forever()
            except BaseException as error:  # noqa: BLE001 - of a task that is the backend's own
                kind = type(error).__name__
                log.error("stray_error", what=self._name, error=kind)  # noqa: TRY400 - no text
        with contextlib.suppress(Exception, SystemExit, KeyboardInterrupt):
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    def _log_stray(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what nobody waited for, by type: asyncio would show its text."""
        kind = type(context.get("exception")).__name__
        log.error("stray_error", what=f"{self._name}: {context['message']}", error=kind)
