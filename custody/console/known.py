"""What is asked for now and then, and kept meanwhile: nothing here makes a page wait for long."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from custody.db.errors import NO_ANSWER, DatabaseError

T = TypeVar("T")

_PATIENCE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """What the last look has found.

    Args:
        value: of the last look that succeeded; None: none has yet.
        at: when that was, in seconds since 1970.
        problem: why the last look failed; None where it did not.
    """

    value: T | None = None
    at: float = 0.0
    problem: str | None = None


class Look(Generic[T]):
    """Asks when it is time; where that fails, what was known stays, with the reason.

    Args:
        ask: returns what is to be known; raises DatabaseError.
        every: seconds from one look to the next, at least.
        within: seconds that one may take.
        spare: how many times as long as the last one took is waited, at least.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[T]],
        *,
        every: float,
        within: float,
        spare: float = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._every = every
        self._within = within
        self._spare = spare
        self._clock = clock
        self._due = 0.0
        self._task: asyncio.Task[None] | None = None
        self.known: Known[T] = Known()

    async def look(self) -> None:
        """Look if it is time; one that takes long goes on by itself, and is known later."""
        if self._task is None:
            if self._clock() < self._due:
                return
            self._task = asyncio.create_task(self._run())
        await asyncio.wait({self._task}, timeout=_PATIENCE_SECONDS)

    async def close(self) -> None:
        """Give up a look that is under way."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        began = self._clock()
        try:
            async with asyncio.timeout(self._within):
                value = await self._ask()
        except (DatabaseError, TimeoutError) as error:
            problem = str(error) or NO_ANSWER
            self.known = Known(self.known.value, self.known.at, problem)
        else:
            self.known = Known(value, time.time())
        finally:
            ended = self._clock()
            self._due = max(began + self._every, ended + self._spare * (ended - began))
            self._task = None
