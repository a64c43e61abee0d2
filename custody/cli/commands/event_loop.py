"""Runs what a command does on an event loop."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from custody.ops.stray_errors import log_stray_error

if TYPE_CHECKING:
    from custody.cli.commands.progress import Waiting

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], waiting_for: "str | Waiting | None" = None) -> T:
    """Run it to its end.

    Args:
        work: what to do.
        waiting_for: what is said that it does, where it takes longer than two seconds and shows
            nothing of itself.

    What nobody waits for any more, such as a connection that Ctrl-C broke off, is logged as the
    daemon logs it, and not shown.
    """

    async def worked() -> T:
        asyncio.get_running_loop().set_exception_handler(_log_stray_error)
        if waiting_for is None:
            return await work
        # Not before: rich takes a while to import, and this is most commands' way.
        from custody.cli.commands.progress import Waiting, waiting

        what = Waiting(waiting_for) if isinstance(waiting_for, str) else waiting_for
        async with waiting(what):
            return await work

    return asyncio.run(worked())


def _log_stray_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # At a Ctrl-C asyncio cancels in the midst of whatever callback runs, as that of a connection
    # that was just made: it then finds that nobody waits for it.
    if not isinstance(context.get("exception"), asyncio.InvalidStateError):
        log_stray_error(loop, context)
