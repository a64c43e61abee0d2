"""How far a command is: on a terminal a bar with rate and time left, else a line now and then.

All of it goes to standard error, so that nothing of it is in what a command prints.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from custody.cli.commands.shown import note

LINE_SECONDS = 10.0
# What takes no longer than this is over before anybody asks how far it is.
_PATIENCE_SECONDS = 2.0
_LOOK_SECONDS = 0.5
# Of a shorter time no pace is known: two batches that are stored at once are no rate.
_PACE_SECONDS = 1.0


class _Rate(ProgressColumn):
    """What a second; nothing while that is not known yet."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Return what is drawn."""
        if task.speed is None or not _has_a_pace(task):
            return Text("")
        return Text(f"{task.speed:.0f} {self._unit}/s")


class _TimeLeft(TimeRemainingColumn):
    """The time that is left; nothing while it is not known yet."""

    def render(self, task: Task) -> Text:
        """Return what is drawn."""
        return super().render(task) if _has_a_pace(task) else Text("")


def _has_a_pace(task: Task) -> bool:
    return task.elapsed is not None and task.elapsed >= _PACE_SECONDS


def new_bar(
    console: Console, get_time: Callable[[], float] = time.monotonic, unit: str = "rows"
) -> Progress:
    """Return what draws a bar.

    Args:
        console: where it is drawn.
        get_time: a clock, in seconds.
        unit: what is counted.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        _TimeLeft(),
    )
    return Progress(*columns, console=console, get_time=get_time, speed_estimate_period=10)


class Lines:
    """Says now and then how far a count is, in lines.

    Args:
        task: what it is.
        total: where it ends; None: not known.
        unit: what is counted.
        say: says a line.
        now: a clock, in seconds.
    """

    def __init__(
        self,
        task: str,
        total: int | None,
        unit: str,
        say: Callable[[str], None] = note,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._task, self._total, self._unit = task, total, unit
        self._say, self._now = say, now
        self._done = self._said = 0
        self._said_at = now()

    def advance(self, count: int) -> None:
        """Add what was done just now; say so, where that was not done for a while."""
        self._done += count
        passed = self._now() - self._said_at
        if passed < LINE_SECONDS:
            return
        rate = (self._done - self._said) / passed
        of = "" if self._total is None else f" of {self._total}"
        left = ""
        if self._total is not None and rate:
            left = f", {max(0, self._total - self._done) / rate:.0f} s left"
        self._say(f"{self._task}: {self._done}{of} {self._unit}, {rate:.0f} {self._unit}/s{left}")
        self._said, self._said_at = self._done, self._now()


@contextmanager
def counted(task: str, total: int | None, unit: str = "rows") -> Iterator[Callable[[int], None]]:
    """Show how far a count is, for the length of the block; yield what adds to it.

    Args:
        task: what it is.
        total: where it ends; None: not known.
        unit: what is counted.
    """
    if not sys.stderr.isatty():
        yield Lines(task, total, unit).advance
        return
    with new_bar(Console(stderr=True), unit=unit) as bar:
        shown = bar.add_task(task, total=total)
        yield lambda count: bar.advance(shown, count)


@dataclass(slots=True)
class Waiting:
    """What is waited for of which nobody knows how far it is, such as one long statement.

    Args:
        text: what it is; may change meanwhile.
    """

    text: str


@asynccontextmanager
async def waiting(what: Waiting) -> AsyncIterator[None]:
    """Say, from two seconds on, that the block is at work and for how long.

    Args:
        what: it does.
    """
    task = asyncio.create_task(_keep_saying(what))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _keep_saying(what: Waiting) -> None:
    began = time.monotonic()
    if not sys.stderr.isatty():
        while True:
            await asyncio.sleep(LINE_SECONDS)
            note(f"{what.text}: {time.monotonic() - began:.0f} s so far")
    await asyncio.sleep(_PATIENCE_SECONDS)
    # What was drawn goes when it ends.
    with Console(stderr=True).status(what.text) as drawn:
        while True:
            drawn.update(f"{what.text}: {time.monotonic() - began:.0f} s so far")
            await asyncio.sleep(_LOOK_SECONDS)
