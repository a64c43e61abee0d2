"""What the tests of remote KMS share."""

import asyncio
import threading
from collections.abc import Callable

from kek_backends.base import Wrap
from tests.kek.fakes import FakeRemote

KEY = b"k" * 32


class Gate:
    """A fault that waits in its thread until the test opens it."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def __call__(self) -> None:
        assert self._open.wait(20)

    def open(self) -> None:
        self._open.set()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


async def wrap_of(kms: FakeRemote) -> Wrap:
    """Return a wrap for alice, and count calls from here."""
    wrap = await kms.wrap("alice", KEY)
    kms.calls.clear()
    return wrap
