"""Waiting for what comes true in a moment: the one place where tests poll."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import TypeVar, overload

# Room for a busy machine: who waits in vain waits this long, and nobody else does.
SECONDS = 30.0
_PAUSE_SECONDS = 0.02
# A machine that stood still, or is so slow, has given what is waited for no more time than this.
_LONGEST_TURN_SECONDS = 1.0

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
    for _ in _turns(seconds):
        with suppress(AssertionError):
            if found := await _found(look):
                return found
        await asyncio.sleep(_PAUSE_SECONDS)
    found = await _found(look)
    assert found, f"it did not come true within {seconds} s"
    return found


def _turns(seconds: float) -> Iterator[None]:
    """Give one turn after the other, until they took so many seconds."""
    begun = time.monotonic()
    while seconds > 0:
        yield
        ended = time.monotonic()
        seconds -= min(ended - begun, _LONGEST_TURN_SECONDS)
        begun = ended


async def _found(look: Callable[[], T | Awaitable[T]]) -> T:
    found = look()
    value: T = await found if inspect.isawaitable(found) else found
    return value


def soon(look: Callable[[], T], seconds: float = SECONDS, pause: float = _PAUSE_SECONDS) -> T:
    """Do as :func:`eventually` where no event loop runs, with so many seconds between two looks."""
    for _ in _turns(seconds):
        with suppress(AssertionError):
            if found := look():
                return found
        time.sleep(pause)
    found = look()
    assert found, f"it did not come true within {seconds} s"
    return found
