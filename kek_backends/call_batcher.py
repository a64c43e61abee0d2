"""Batches the calls of concurrent callers to a KMS: one call answers many of them.

A request goes at once while few calls are under way. Those that come while enough of them are go
together in the next one: batches grow with the load, and no request waits for a batch to fill.
"""

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from kek_backends.errors import KekError, Transient

# Few calls make large batches, and a call costs this process far more than one more request in it.
# But a connection that hangs must not block everyone, nor a KMS far away the second caller.
CALLS_AT_ONCE = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class _Request(Generic[Item, Result]):
    item: Item = field(repr=False)
    answer: "asyncio.Future[Result]" = field(repr=False)


class CallBatcher(Generic[Item, Result]):
    """Makes one kind of call for many requests at once.

    It sets no deadline: each call ends by itself. A caller that gives up is left out of the next
    call, or its answer is thrown away, and the others in the call notice nothing.

    Args:
        call: makes one call for some items; returns for each of them, in order, its result or why
            there is none. What it raises, but for a Transient, is taken as the fault of one of
            the items: each then goes in a call of its own, whatever else is under way.
        most: how many requests one call may answer.
    """

    def __init__(
        self, call: Callable[[Sequence[Item]], Awaitable[Sequence[Result | KekError]]], most: int
    ) -> None:
        self._call = call
        self._most = most
        self._waiting: deque[_Request[Item, Result]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, item: Item) -> Result:
        """Have an item answered by the next call.

        Raises:
            KekError: of the item, or of the whole call where that can pass: another may be made.
        """
        loop = asyncio.get_running_loop()
        request: _Request[Item, Result] = _Request(item, loop.create_future())
        self._waiting.append(request)
        if len(self._tasks) < CALLS_AT_ONCE:
            # A task of its own: the caller may be cancelled, and the others in the call are not.
            self._tasks.add(loop.create_task(self._call_for_all()))
        return await request.answer

    async def _call_for_all(self) -> None:
        """Make calls until nobody waits."""
        try:
            while requests := self._take():
                await self._answer(requests)
        finally:
            # With no await since nobody was found waiting: the next request starts a task.
            self._tasks.discard(asyncio.current_task())

    def _take(self) -> list[_Request[Item, Result]]:
        """Return the requests of the next call, without those that were cancelled."""
        taken: list[_Request[Item, Result]] = []
        while self._waiting and len(taken) < self._most:
            request = self._waiting.popleft()
            if not request.answer.done():
                taken.append(request)
        return taken

    async def _answer(self, requests: Sequence[_Request[Item, Result]]) -> None:
        results: Sequence[Result | KekError]
        try:
            results = await self._call([request.item for request in requests])
            if len(results) != len(requests):
                raise Transient(f"{len(requests)} items went in, {len(results)} came out")
        except Transient as error:
            _refuse(requests, error)
            return
        except KekError as error:
            if len(requests) == 1:
                _refuse(requests, error)
                return
            # Refused as a whole, maybe for what is in one of them: each goes alone.
            alone = [request for request in requests if not request.answer.done()]
            await asyncio.gather(*(self._answer([request]) for request in alone))
            return
        except Exception as error:  # noqa: BLE001 - else its callers would wait for ever
            _refuse(requests, error)
            return
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, KekError):
                _refuse([request], result)
            elif not request.answer.done():
                request.answer.set_result(result)


def _refuse(requests: Sequence[_Request[Item, Result]], error: Exception) -> None:
    for request in requests:
        if not request.answer.done():
            # A copy for each: an exception's traceback grows with each caller that raises it.
            request.answer.set_exception(copy.copy(error))
