"""How ``custody kek list`` shows KEKs and data keys: lines of a table, or objects for machines."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from custody.cli.commands import shown
from custody.keks.records import NO_ROWS, RecordedDataKey, RegisteredKek, RowCount

_HEADINGS = ("KEK_ID", "STATE", "ROWS", "LEGACY", "ASIDE", "DATA KEYS", "SINCE", "HERE")
_NUMBERS = frozenset({"ROWS", "LEGACY", "ASIDE", "DATA KEYS"})
_GAP = "  "
_UNSEEN = "?"
_NONE = "-"
_SECOND = "second root"
_HERE = {True: "yes", False: "no", None: _UNSEEN}
# In the middle of what is too long; no letter that a terminal may not have.
_CUT = "..."


@dataclass(frozen=True, slots=True)
class ListedKek:
    """One KEK of the list.

    Args:
        kek: what is recorded.
        rows: what is wrapped under it; None where rows could not be seen.
        data_keys: ids of the data keys that are wrapped under it, each with how many rows it wraps;
            None where rows could not be seen.
        configured: whether a KEK configured here holds it; None where that could not be seen.
        second: whether the second root that is configured here holds it.
    """

    kek: RegisteredKek
    rows: RowCount | None
    data_keys: Mapping[str, int | None]
    configured: bool | None
    second: bool = False

    def as_object(self) -> dict[str, Any]:
        """Return it for JSON."""
        rows = self.rows
        return {
            "kek_id": self.kek.kek_id,
            "state": self.kek.state,
            "backend": self.kek.backend,
            "locator": self.kek.locator,
            "rows": rows and rows.wraps,
            "legacy_rows": rows and rows.legacy,
            "format_1_rows": rows and rows.format_1,
            "quarantined_rows": rows and rows.quarantined,
            "data_keys": list(self.data_keys),
            "data_key_rows": dict(self.data_keys),
            "recorded_at": _time(self.kek.recorded_at),
            "activated_at": _time(self.kek.activated_at),
            "retired_at": _time(self.kek.retired_at),
            "retirement": self.kek.retirement,
            "configured": self.configured,
            "second": self.second,
        }

    def as_cells(self) -> tuple[str, ...]:
        """Return it for the table."""
        kek, rows = self.kek, self.rows
        since = {"active": kek.activated_at, "retired": kek.retired_at}
        at = since.get(kek.state, kek.recorded_at)
        return (
            kek.kek_id,
            kek.state,
            _UNSEEN if rows is None else str(rows.wraps),
            _UNSEEN if rows is None else str(rows.legacy),
            _UNSEEN if rows is None else str(rows.quarantined),
            str(len(self.data_keys)),
            _NONE if at is None else shown.time(at).partition("T")[0],
            _SECOND if self.second else _HERE[self.configured],
        )


def table(listed: Iterable[ListedKek], width: int) -> str:
    """Return all KEKs as text, one a line, under headings.

    A kek_id that leaves no room for the rest has a line of its own before it. One that is longer
    than a line is cut in its middle: its two ends say more.

    Args:
        listed: the KEKs.
        width: of a line, in columns.
    """
    lines = [_HEADINGS, *(tuple(map(shown.printable, kek.as_cells())) for kek in listed)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    room = width - sum(widths[1:]) - len(_GAP) * len(widths[1:])
    widths[0] = max(len(line[0]) for line in lines if len(line[0]) <= max(room, len(_HEADINGS[0])))
    said = []
    for kek_id, *cells in lines:
        own_line = len(kek_id) > widths[0]
        if own_line:
            said.append(_shorten(kek_id, width))
        said.append(_line(("" if own_line else kek_id, *cells), widths))
    return "\n".join(said)


def tree(
    keys: Sequence[RecordedDataKey], rows: Mapping[str, RowCount] | None, width: int
) -> list[str]:
    """Return the data keys as text: under each KEK those that it wraps, with what they wrap.

    One that is under two KEKs is shown under both.

    Args:
        keys: what is on record of them.
        rows: by kek_id; None where rows could not be seen.
        width: of a line, in columns.
    """
    kek_ids = dict.fromkeys(kek_id for key in keys for kek_id in key.kek_ids)
    under = {kek_id: [key for key in keys if kek_id in key.kek_ids] for kek_id in kek_ids}
    if orphans := [key for key in keys if not key.kek_ids]:
        under["under no KEK"] = orphans
    said = []
    for kek_id, wrapped in under.items():
        said.append(_shorten(shown.printable(kek_id), width))
        said += [f"{_GAP}{_data_key(key, rows)}" for key in wrapped]
    return said


def _data_key(key: RecordedDataKey, rows: Mapping[str, RowCount] | None) -> str:
    wraps = _UNSEEN if rows is None else rows.get(key.id, NO_ROWS).wraps
    lost = f", lost since {shown.time(key.lost_at)}" if key.lost_at else ""
    since = shown.time(key.created_at)
    return f"data key {key.id} since {since}{lost}: wraps {wraps} rows"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = (
        cell.rjust(width) if heading in _NUMBERS else cell.ljust(width)
        for heading, cell, width in zip(_HEADINGS, cells, widths, strict=True)
    )
    return _GAP.join(aligned).rstrip()


def _shorten(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    before = (width - len(_CUT)) // 2
    after = width - len(_CUT) - before
    return f"{text[:before]}{_CUT}{text[-after:]}"


def _time(at: datetime | None) -> str | None:
    return None if at is None else shown.time(at)
