"""Exports the audit: its rows in the order of their numbers, and the checkpoints between them."""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from custody.audit.exported import as_object, time_of
from custody.audit.ocsf import as_ocsf
from custody.audit.reading import LOWEST, Reader, Rows


@dataclass(frozen=True)
class Format:
    """What lines are made of.

    Args:
        of_row: a row as JSON has it.
        head: how the line of a row begins, before its number.
        has_checkpoints: whether checkpoints have lines, too.
    """

    of_row: Callable[[Mapping[str, Any]], dict[str, object]]
    head: bytes
    has_checkpoints: bool


CHECKPOINT_HEAD = b'{"checkpoint": '
FORMATS = {
    "jsonl": Format(as_object, b'{"number": ', has_checkpoints=True),
    # OCSF has no class for them.
    "ocsf": Format(as_ocsf, b'{"metadata": {"sequence": ', has_checkpoints=False),
}


@dataclass
class Place:
    """How far an export is: what the next one goes on from.

    Args:
        row: the number of the last row that is out.
        checkpoint: that of the last checkpoint that is out; None: not known.
    """

    row: int = LOWEST - 1
    checkpoint: int | None = LOWEST - 1


class Line(NamedTuple):
    """One line of an export.

    Args:
        text: without its line break.
        number: of the row, or of the checkpoint.
        row: its columns; None: it is a checkpoint.
    """

    text: str
    number: int
    row: Mapping[str, Any] | None


def text_of(lines: Iterable[Line]) -> str:
    """Return lines as a file has them."""
    return "".join(f"{line.text}\n" for line in lines)


@dataclass(frozen=True)
class Span:
    """Of which times rows are; each row is judged by itself, since clocks are stepped.

    Args:
        since: from then on.
        until: before then.
    """

    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_all(self) -> bool:
        """Whether it leaves nothing out."""
        return self.since is None and self.until is None

    def has(self, row: Mapping[str, Any]) -> bool:
        """Say whether a row is in it; one without a time of ours is in none but that of all."""
        if self.is_all:
            return True
        at = time_of(row)
        return (
            at is not None
            and (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
        )


class Export:
    """One export, from a place up to what is settled.

    Args:
        reader: reads the database.
        format_: what lines are made of.
        place: where it begins; it moves along.
        span: of which times rows are.
    """

    def __init__(self, reader: Reader, format_: Format, place: Place, span: Span) -> None:
        self._reader, self._format, self.place, self._span = reader, format_, place, span
        # Of a span of times only those checkpoints are meant that rows of it are under.
        self._has_new = span.is_all

    async def lines(self, settled: int) -> AsyncIterator[tuple[list[Line], int]]:
        """Return the lines in pieces, each piece with the number that it comes up to.

        ``place`` is behind a piece once the next one is asked for.

        Args:
            settled: no row can come up to this number any more.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        rows = Rows(self._reader, self.place.row + 1)
        number = await self._next_checkpoint()
        while number is not None and (page := await self._reader.checkpoints(number)):
            for stored in page:
                last = stored["last_row"]
                if last > settled:
                    # It was made while this was read, and is for the next time; or made up.
                    continue
                async for piece in self._rows(rows, last, settled):
                    yield piece
                if self._has_new:
                    yield [Line(_checkpoint(stored), stored["number"], None)], last
                    self._has_new = self._span.is_all
                self.place.checkpoint = stored["number"]
            number = page[-1]["number"] + 1
        async for piece in self._rows(rows, settled, settled):
            yield piece

    async def _rows(
        self, rows: Rows, last: int, settled: int
    ) -> AsyncIterator[tuple[list[Line], int]]:
        async for page in rows.take(last, settled):
            kept = [row for row in page if self._span.has(row)]
            self._has_new = self._has_new or bool(kept)
            made = [Line(json.dumps(self._format.of_row(row)), row["number"], row) for row in kept]
            yield made, page[-1]["number"]
            if kept:
                self.place.row = kept[-1]["number"]

    async def _next_checkpoint(self) -> int | None:
        """Return the number from which on checkpoints are to come; None: none are."""
        if not self._format.has_checkpoints:
            return None
        if self.place.checkpoint is not None:
            return self.place.checkpoint + 1
        # Where it is not known what is out, the last one of those may come again: better than
        # one that never comes.
        return await self._reader.last_checkpoint_under(self.place.row)


def _checkpoint(stored: Mapping[str, Any]) -> str:
    return json.dumps(
        {
            "checkpoint": stored["number"],
            "size": stored["size"],
            "lastRow": stored["last_row"],
            "note": stored["note"],
        }
    )
