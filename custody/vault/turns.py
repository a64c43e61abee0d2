"""One change per user at a time in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from custody import tracing
from custody.vault.errors import Overloaded
from custody.vault.failures import AUDIT_RESERVE_SECONDS
from custody.vault.model import Caller


class Turns:
    """The turns of each user, so that one whose row is locked takes one connection and not all.

    Correctness does not depend on them: other processes change the row as well.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, caller: Caller) -> AsyncIterator[None]:
        """Wait for the caller's earlier changes to end, and let later ones wait for the block.

        Raises:
            Overloaded: they take too long.
        """
        lock = self._locks.setdefault(caller.user_id, asyncio.Lock())
        try:
            with tracing.span("turn"):
                async with asyncio.timeout_at(caller.deadline.at - AUDIT_RESERVE_SECONDS):
                    await lock.acquire()
        except TimeoutError:
            raise Overloaded from None
        try:
            yield
        finally:
            lock.release()
