"""How far a run is: a bar on a terminal, else a log line every ten seconds."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from rich.console import Console
from rich.progress import Progress as Bar

from custody.cli.commands import shown
from custody.cli.commands.progress import LINE_SECONDS, new_bar
from custody.rewrap.runs import Run, State
from custody.rewrap.storing import Counts

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
            await asyncio.sleep(LINE_SECONDS)
            if self._bar is None and self._run is not None:
                now = self._done + self._failed
                rate = (now - self._logged) / LINE_SECONDS
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
