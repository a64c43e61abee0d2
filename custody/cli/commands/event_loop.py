"""Runs what a command does on an event loop."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from custody.ops.stray_errors import log_stray_error

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run it to its end.

    What nobody waits for any more, such as a connection that Ctrl-C broke off, is logged as the
    daemon logs it, and not shown.
    """

    async def worked() -> T:
        asyncio.get_running_loop().set_exception_handler(log_stray_error)
        return await work

    return asyncio.run(worked())
