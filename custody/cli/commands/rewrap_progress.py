"""How far a run is: a bar on a terminal, else a log line every ten seconds."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from custody.cli.commands import shown
from custody.rewrap.runs import Run, State
from custody.rewrap.storing import Counts

_LINE_SECONDS = 10.0
# Of a shorter time no pace is known: two batches that are stored at once are no rate.
_PACE_SECONDS = 1.0

log = structlog.get_logger()


class Progress:
    """What a run has done so far, here and elsewhere.

    Args:
        bar: where to draw; None: log lines.
    """

    def __init__(self, bar: Bar | None) -> None:
        self._bar = bar
        self._task: Any = None
        self._run: Run | None = None
        self._done = self._moved = self._failed = 0
        # What was done when the last line was logged, or before we came.
        self._logged = 0

    def advance(self, run: Run, counts: Counts) -> None:
        """Add what was stored just now."""
        if self._run is None or self._run.id != run.id:
            self._run = run
            self._done, self._moved, self._failed = run.done, run.moved, run.failed
            self._logged = run.done + run.failed
            if self._bar is not None:
                self._task = self._bar.add_task(f"to {run.target}", total=run.total)
        self._done += counts.done
        self._moved += counts.moved
        self._failed += counts.failed
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done + self._failed)

    async def keep_showing(self) -> None:
        """Log a line every ten seconds, where there is no bar."""
        while True:
            await asyncio.sleep(_LINE_SECONDS)
            if self._bar is None and self._run is not None:
                now = self._done + self._failed
                rate = (now - self._logged) / _LINE_SECONDS
                left = max(0, self._run.total - now)
                log.info(
                    "rewrap_progress",
                    run=self._run.id,
                    done=self._done,
                    moved=self._moved,
                    failed=self._failed,
                    total=self._run.total,
                    rows_a_second=round(rate),
                    seconds_left=round(left / rate) if rate else None,
                )
                self._logged = now


class _Rate(ProgressColumn):
    """Rows a second; nothing while they are not known yet."""

    def render(self, task: Task) -> Text:
        """Return what is drawn."""
        if task.speed is None or not _has_a_pace(task):
            return Text("")
        return Text(f"{task.speed:.0f} rows/s")


class _TimeLeft(TimeRemainingColumn):
    """The time that is left; nothing while it is not known yet."""

    def render(self, task: Task) -> Text:
        """Return what is drawn."""
        return super().render(task) if _has_a_pace(task) else Text("")


def _has_a_pace(task: Task) -> bool:
    return task.elapsed is not None and task.elapsed >= _PACE_SECONDS


def new_bar(console: Console, get_time: Callable[[], float] = time.monotonic) -> Bar:
    """Return what draws a run as a bar.

    Args:
        console: where it is drawn.
        get_time: a clock, in seconds.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        _TimeLeft(),
    )
    return Bar(*columns, console=console, get_time=get_time, speed_estimate_period=10)


@contextmanager
def counted(task: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how far a count is, for the length of the block, on a terminal alone.

    Args:
        task: what it is.
        total: where it ends; None: not known.
    """
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    with new_bar(Console(stderr=True)) as bar:
        shown_task = bar.add_task(task, total=total)
        yield lambda count: bar.advance(shown_task, count)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show how far a run is for the length of the block."""
    if not sys.stderr.isatty():
        yield Progress(None)
        return
    with new_bar(Console(stderr=True)) as bar:
        yield Progress(bar)


def describe(run: Run) -> dict[str, object]:
    """Return a run as JSON shows it."""
    left = run.seconds_left
    return {
        "id": run.id,
        "state": run.state,
        "target": run.target,
        "sources": list(run.sources),
        "everything": run.everything,
        "rotation": run.rotation,
        "data_key": run.data_key,
        "total": run.total,
        "done": run.done,
        "moved": run.moved,
        "failed": run.failed,
        # Of one that was stopped it would say nothing: nobody worked on it for a while.
        "rows_a_second": None if run.state is State.STOPPED else round(run.rows_a_second),
        "seconds_left": None if left is None else round(left),
        "started_by": run.started_by,
        "started_at": shown.time(run.started_at),
        "heartbeat_at": shown.time(run.heartbeat_at),
        "ended_at": shown.time(run.ended_at) if run.ended_at else None,
    }
