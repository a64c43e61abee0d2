"""Waiting for what comes true in a moment: the one place where tests poll."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar, overload

# Room for a busy machine: who waits in vain waits this long, and nobody else does.
SECONDS = 20.0
_PAUSE_SECONDS = 0.02

T = TypeVar("T")


@overload
async def eventually(look: Callable[[], Awaitable[T]], seconds: float = ...) -> T: ...
@overload
async def eventually(look: Callable[[], T], seconds: float = ...) -> T: ...
async def eventually(look: Callable[[], T | Awaitable[T]], seconds: float = SECONDS) -> T:
    """Look again and again until what is found is true, and return it.

    Args:
        look: returns it, or an awaitable of it; while it asserts in vain, it is not true yet.
        seconds: to wait at most.

    Raises:
        AssertionError: it never came true; that of ``look``, where it has one.
    """
    for last in _tries(seconds):
        try:
            found = look()
            value: T = await found if inspect.isawaitable(found) else found
        except AssertionError:
            if last:
                raise
        else:
            if value:
                return value
        await asyncio.sleep(_PAUSE_SECONDS)
    raise AssertionError(f"it did not come true within {seconds} s")


def soon(look: Callable[[], T], seconds: float = SECONDS, pause: float = _PAUSE_SECONDS) -> T:
    """Do as :func:`eventually` where no event loop runs, with so many seconds between two looks."""
    for last in _tries(seconds):
        try:
            value = look()
        except AssertionError:
            if last:
                raise
        else:
            if value:
                return value
        time.sleep(pause)
    raise AssertionError(f"it did not come true within {seconds} s")


def _tries(seconds: float) -> Iterator[bool]:
    """Yield for each try whether it is the last one."""
    end = time.monotonic() + seconds
    while True:
        last = time.monotonic() >= end
        yield last
        if last:
            return
