"""Follows the audit: sends each settled row to a target, in the order of the numbers.

Nothing is lost: a row is behind us only when the target has had it for a while. Until then the
place that is kept, and that is gone back to once the target was lost, is one before it, and the row
is sent again: from the database, which holds what a target does not take. So a row may come more
than once, and its id says which one it is.

No request waits for any of this: a follower is a process of its own, and reads what is committed.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import structlog

from custody.audit.export import Export, Format, Line, Place, Span
from custody.audit.place_file import PlaceFile
from custody.audit.reading import LOWEST, PAGE, Reader
from custody.audit.settled import STUCK
from custody.audit.targets.target import Target, TargetDown, TargetUnfit
from custody.db.errors import Busy, DatabaseError, Refused

# What a target took is still in its queue, or in the copy of a file that is being cut, for no
# longer than this: then it has it.
GRACE_SECONDS = 30.0
POLL_SECONDS = 1.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
# For systemd, while we wait for the database at the start.
_START_SECONDS = 60.0
_CHUNK = 500

log = structlog.get_logger()


class ServiceManager(Protocol):
    """What is told how we are; see :class:`custody.ops.notify.Notifier`."""

    def ready(self, status: str) -> bool:
        """Take note that the follower has begun."""

    def extend_start(self, seconds: float) -> None:
        """Wait for longer until it is ready."""

    def status(self, text: str) -> None:
        """Take note of how it is."""

    def alive(self) -> None:
        """Take note that it goes on."""


class Follower:
    """Sends the audit to a target, until it is cancelled.

    Args:
        reader: reads the database.
        format_: what lines are made of.
        target: takes them.
        kept: where the place is kept.
        manager: is told how we are.
    """

    def __init__(
        self,
        reader: Reader,
        format_: Format,
        target: Target,
        kept: PlaceFile,
        manager: ServiceManager,
    ) -> None:
        self._reader, self._format, self._target = reader, format_, target
        self._kept, self._manager = kept, manager
        # What the target has had for a while, and None where nothing is known of it.
        self._certain = kept.read()
        self._written = self._certain
        # What it took since then, and in which second.
        self._recent: deque[tuple[int, Place]] = deque()
        self._place = Place()
        self._settled = LOWEST
        self._is_open = False
        self._problem = ""
        self._pause = FIRST_PAUSE_SECONDS

    async def follow(self, variable: str) -> None:
        """Follow; it ends by an error, or when it is cancelled.

        Args:
            variable: which setting the database's URL is, for messages.

        Raises:
            Refused: the database or the role is not to be used.
            TargetUnfit: the target can't be used as it is set, and never could be.
        """
        try:
            await self._begin(variable)
            while True:
                try:
                    await self._round()
                except (DatabaseError, TargetDown, OSError) as error:
                    await self._wait(error)
                else:
                    self._went_well()
                    self._manager.status(self._status)
                    await asyncio.sleep(POLL_SECONDS)
        finally:
            self._target.close()

    async def _begin(self, variable: str) -> None:
        while True:
            try:
                await self._reader.check(variable)
            except Refused:
                raise
            except DatabaseError as error:
                self._manager.extend_start(_START_SECONDS)
                await self._wait(error)
            else:
                break
        try:
            await self._open()
        except TargetDown as error:
            # One that could be used once may be so again: a disk that is not there yet, say.
            if isinstance(error, TargetUnfit) and self._certain is None:
                raise
            self._say(str(error))
        log.info("audit_export_begins", row=None if self._is_at_start else self._place.row)
        self._manager.ready(self._status)

    async def _round(self) -> None:
        """Send what is settled by now."""
        if not self._is_open:
            await self._open()
        self._target.check()
        settled = await self._reader.settled()
        if settled is None:
            raise Busy(STUCK)
        self._settled = settled
        if settled < self._place.row:
            self._go_back()
        export = Export(self._reader, self._format, replace(self._place), Span())
        async for lines, _ in export.lines(settled):
            for chunk in _chunks(lines):
                await self._target.send(chunk)
                self._sent(chunk[-1])
        self._keep()

    async def _open(self) -> None:
        found = await self._target.open()
        self._is_open = True
        # What was not certain yet may be lost.
        self._recent.clear()
        self._place = _behind(found, self._certain)
        self._certain = replace(self._place)

    def _go_back(self) -> None:
        """Begin before the end of a log that is shorter than it was.

        Rows that it has now, under numbers that were sent already, may be others.
        """
        cure = "a backup was restored, or a failover lost rows; see: custody audit verify"
        log.error("audit_export_shorter", row=self._place.row, last=self._settled, cure=cure)
        self._place = Place(max(LOWEST - 1, self._settled - PAGE), None)
        self._certain = replace(self._place)
        self._recent.clear()

    def _sent(self, line: Line) -> None:
        if line.row is None:
            self._place.checkpoint = line.number
        else:
            self._place.row = line.number
        second = self._second
        if self._recent and self._recent[-1][0] == second:
            self._recent.pop()
        else:
            # Once a second: a disk is slower than most targets.
            self._keep()
            self._manager.status(self._status)
        self._recent.append((second, replace(self._place)))
        self._went_well()

    def _keep(self) -> None:
        """Keep the place that is certain by now."""
        while self._recent and self._second - self._recent[0][0] > GRACE_SECONDS:
            self._certain = self._recent.popleft()[1]
        if self._certain is not None and self._certain != self._written:
            self._kept.write(self._certain)
            self._written = replace(self._certain)

    async def _wait(self, error: DatabaseError | TargetDown | OSError) -> None:
        """Wait for a while; twice as long the next time."""
        if isinstance(error, TargetDown):
            self._target.close()
            self._is_open = False
        self._say(str(error) or type(error).__name__)
        self._manager.alive()
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def _say(self, problem: str) -> None:
        if not self._problem:
            log.warning("audit_export_waits", reason=problem, behind=self._lag)
        self._problem = problem
        self._manager.status(self._status)

    def _went_well(self) -> None:
        if self._problem:
            log.info("audit_export_goes_on", row=self._place.row, behind=self._lag)
        self._problem, self._pause = "", FIRST_PAUSE_SECONDS
        self._manager.alive()

    @property
    def _second(self) -> int:
        return int(asyncio.get_running_loop().time())

    @property
    def _is_at_start(self) -> bool:
        return self._place.row < LOWEST

    @property
    def _lag(self) -> int:
        """By how many numbers the last row that was sent is behind the last one to send."""
        return max(0, self._settled - max(0, self._place.row))

    @property
    def _status(self) -> str:
        row = "no row yet" if self._is_at_start else f"row {self._place.row}"
        waits = f" | waits: {self._problem}" if self._problem else ""
        return f"{row} | {self._lag} behind{waits}"


def _behind(found: Place | None, certain: Place | None) -> Place:
    """Return where to go on.

    Args:
        found: what the target holds goes so far; a file that was begun after a rotation may hold no
            row yet, or no checkpoint.
        certain: what is known beside that.
    """
    if found is None or certain is None:
        return replace(found or certain or Place())
    return Place(
        certain.row if found.row < LOWEST else found.row,
        certain.checkpoint if found.checkpoint is None else found.checkpoint,
    )


def _chunks(lines: list[Line]) -> Iterator[list[Line]]:
    """Return lines in pieces that a target takes in a moment."""
    for begin in range(0, len(lines), _CHUNK):
        yield lines[begin : begin + _CHUNK]
