"""How far a run is: a bar on a terminal, else a log line every ten seconds."""

import asyncio
import sys
from collections.abc import Iterator
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

from custody.rewrap.runs import Run
from custody.rewrap.storing import Counts

_LINE_SECONDS = 10.0

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

    def advance(self, run: Run, counts: Counts) -> None:
        """Add what was stored just now."""
        if self._run is None or self._run.id != run.id:
            self._run = run
            self._done, self._moved, self._failed = run.done, run.moved, run.failed
            if self._bar is not None:
                self._task = self._bar.add_task(f"to {run.target}", total=run.total)
        self._done += counts.done
        self._moved += counts.moved
        self._failed += counts.failed
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done + self._failed)

    async def keep_showing(self) -> None:
        """Log a line every ten seconds, where there is no bar."""
        before = 0
        while True:
            await asyncio.sleep(_LINE_SECONDS)
            if self._bar is None and self._run is not None:
                now = self._done + self._failed
                rate = (now - before) / _LINE_SECONDS
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
                before = now


class _Rate(ProgressColumn):
    """Rows a second; nothing while they can't be told yet."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.0f} rows/s")


@contextmanager
def progress() -> Iterator[Progress]:
    """Show how far a run is for the length of the block."""
    if not sys.stderr.isatty():
        yield Progress(None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), speed_estimate_period=10) as bar:
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
        "total": run.total,
        "done": run.done,
        "moved": run.moved,
        "failed": run.failed,
        "rows_a_second": round(run.rows_a_second),
        "seconds_left": None if left is None else round(left),
        "started_by": run.started_by,
        "started_at": run.started_at.isoformat(),
        "heartbeat_at": run.heartbeat_at.isoformat(),
        "ended_at": run.ended_at.isoformat() if run.ended_at else None,
    }
