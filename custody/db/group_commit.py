"""Group commit: one statement, in one transaction, for many concurrent requests.

The first request goes at once. Those that arrive while it is under way go together in the next
batch, so batches grow with the load, and no request waits for a batch to fill. Each batch is one
transaction, and each request waits for the COMMIT of its own.
"""

import asyncio
import contextvars
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from custody import tracing
from custody.db.checkout import UNUSABLE, acquire
from custody.db.commit import give_up
from custody.db.engine import Connection
from custody.db.errors import NO_ANSWER, DatabaseError, Demoted
from custody.deadline import Deadline

BATCH_SIZE = 64
# One connection is enough while its batches are answered: a second would only make them smaller.
# Others help where a batch is full, or waits so long that its connection may be dead.
CONNECTIONS = 4
_SLOW_SECONDS = 0.1
_TICK_SECONDS = 0.1
# How long a task keeps its connection while no request waits.
_LINGER_SECONDS = 0.5
_CLOSE_SECONDS = 2.0
# A request with less time left goes alone: a batch has to be done by the earliest of its deadlines.
_ALONE_SECONDS = 1.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class NotBatched(DatabaseError):
    """Nothing was done. The request is to be tried in a transaction of its own."""


@dataclass(slots=True, eq=False)
class _Request(Generic[Item, Result]):
    item: Item = field(repr=False)
    until: float
    answer: "asyncio.Future[Result]"
    # In its trace; a batch is linked to it.
    place: object


class GroupCommit(Generic[Item, Result]):
    """Runs one kind of statement for many requests at once.

    Args:
        engine: connections of a runtime role.
        run: runs the statement, as a transaction of its own, for some items and the earliest of
            their deadlines; returns a result for each, in order.
        served: called for each batch that was run, with its size and the seconds that the earliest
            of its deadlines is ahead then; must not raise.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        run: Callable[[Connection, Sequence[Item], Deadline], Awaitable[Sequence[Result]]],
        served: Callable[[int, float], None] = lambda _size, _seconds_left: None,
    ) -> None:
        self._engine = engine
        self._served = served
        self._run = run
        self._queue: deque[_Request[Item, Result]] = deque()
        self._working = 0
        self._taken_at = 0.0
        self._asked: list[_Request[Item, Result]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._parked: asyncio.Future[None] | None = None
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, item: Item, deadline: Deadline) -> Result:
        """Have an item done in the next batch.

        Args:
            item: what is asked.
            deadline: of the request; there is an answer by then.

        Raises:
            NotBatched: the server refused the batch, maybe for another item in it; or too little
                time is left to share a batch.
            DatabaseError: as :func:`custody.db.checkout.acquire`, or out of time.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        if deadline.at - now < _ALONE_SECONDS:
            raise NotBatched
        request: _Request[Item, Result] = _Request(
            item, deadline.at, loop.create_future(), tracing.here()
        )
        self._queue.append(request)
        if self._parked is not None:
            self._taken_at = now
            self._wake()
        elif self._needs_task(now):
            self._working += 1
            self._taken_at = now
            # In a context of its own: what it logs is not of the request that happened to start it.
            task = loop.create_task(self._work(), context=contextvars.Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._asked.append(request)
        if self._timer is None:
            self._timer = loop.call_later(_TICK_SECONDS, self._tick, loop)
        return await request.answer

    async def close(self) -> None:
        """Give connections back; called when no request is under way."""
        self._closing = True
        self._wake()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Fail the requests that are out of time: one timer for all, not one for each."""
        now = loop.time() + _TICK_SECONDS
        self._asked = [request for request in self._asked if not request.answer.done()]
        for request in self._asked:
            if request.until <= now:
                request.answer.set_exception(DatabaseError(NO_ANSWER))
        self._timer = loop.call_later(_TICK_SECONDS, self._tick, loop) if self._asked else None

    def _needs_task(self, now: float) -> bool:
        if not self._working:
            return True
        slow = now - self._taken_at > _SLOW_SECONDS
        return self._working < CONNECTIONS and (slow or len(self._queue) > BATCH_SIZE)

    async def _work(self) -> None:
        """Serve batches until no request has come for a while."""
        batch: list[_Request[Item, Result]] = []
        # Taken again after each await: a request that came meanwhile relies on this task.
        while batch := batch or self._take():
            try:
                async with acquire(self._engine, max(one.until for one in batch)) as connection:
                    # Another pool: this connection's server is the primary no more.
                    pool = self._engine.pool
                    while batch and not connection.is_closed() and self._engine.pool is pool:
                        await self._serve(connection, batch)
                        batch = self._take() or await self._linger()
            except Exception as error:  # noqa: BLE001 - each request raises it
                _fail(batch, error)
                batch = []
        self._working -= 1

    async def _linger(self) -> list[_Request[Item, Result]]:
        """Keep the connection for the next requests: to borrow one costs more than to use it."""
        if self._parked is not None or self._closing:
            return []
        loop = asyncio.get_running_loop()
        parked = self._parked = loop.create_future()
        timer = loop.call_later(_LINGER_SECONDS, self._wake)
        try:
            await parked
        finally:
            timer.cancel()
            if self._parked is parked:
                self._parked = None
        return self._take()

    def _wake(self) -> None:
        parked, self._parked = self._parked, None
        if parked is not None and not parked.done():
            parked.set_result(None)

    def _take(self) -> list[_Request[Item, Result]]:
        """Return the next batch; a request that was cancelled or is out of time is not in it."""
        now = self._taken_at = asyncio.get_running_loop().time()
        batch: list[_Request[Item, Result]] = []
        while self._queue and len(batch) < BATCH_SIZE:
            request = self._queue.popleft()
            if request.answer.done():
                continue
            if request.until - now < _ALONE_SECONDS:
                request.answer.set_exception(NotBatched())
                continue
            batch.append(request)
        return batch

    async def _serve(self, connection: Connection, batch: list[_Request[Item, Result]]) -> None:
        """Run a batch and answer it."""
        until = [request.until for request in batch]
        earliest, latest = min(until), max(until)
        try:
            async with asyncio.timeout_at(latest):
                items = [request.item for request in batch]
                places = [request.place for request in batch]
                with tracing.span("database batch", places, custody__requests=len(batch)):
                    results = await self._run(connection, items, Deadline(earliest))
        except TimeoutError:
            await give_up(connection)
            raise DatabaseError(NO_ANSWER) from None
        except (asyncpg.PostgresError, Demoted) as error:
            # The server has said that nothing was done. What it refused may be one item.
            _fail(batch, NotBatched())
            if isinstance(error, UNUSABLE):
                raise  # the next batch needs another connection
            return
        answers = list(zip(batch, results, strict=True))  # all of them, or none has any
        self._served(len(batch), earliest - asyncio.get_running_loop().time())
        for request, result in answers:
            if not request.answer.done():
                request.answer.set_result(result)


def _fail(batch: Sequence[_Request[Item, Result]], error: Exception) -> None:
    for request in batch:
        if not request.answer.done():
            # A copy for each: an exception's traceback grows with each caller that raises it.
            request.answer.set_exception(copy.copy(error))
