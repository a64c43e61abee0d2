"""How ``custody kek list`` shows a KEK: a line of a table, or an object for machines."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from custody.db.keks import RegisteredKek, RowCount

_HEADINGS = (
    "KEK_ID",
    "STATE",
    "BACKEND",
    "LOCATOR",
    "ROWS",
    "FORMAT 1",
    "QUARANTINED",
    "FIRST SEEN",
    "ACTIVE SINCE",
    "RETIRED",
    "HERE",
)
_UNSEEN = "?"
_NONE = "-"
_HERE = {True: "configured", False: "not configured", None: _UNSEEN}


@dataclass(frozen=True, slots=True)
class ListedKek:
    """One KEK of the list.

    Args:
        kek: what is recorded.
        rows: what is wrapped under it; None where rows could not be seen.
        configured: whether a KEK configured here holds it; None where that could not be seen.
    """

    kek: RegisteredKek
    rows: RowCount | None
    configured: bool | None

    def as_object(self) -> dict[str, Any]:
        """Return it for JSON."""
        rows = self.rows
        return {
            "kek_id": self.kek.kek_id,
            "state": self.kek.state,
            "backend": self.kek.backend,
            "locator": self.kek.locator,
            "rows": rows and rows.wraps,
            "format_1_rows": rows and rows.format_1,
            "quarantined_rows": rows and rows.quarantined,
            "recorded_at": _time(self.kek.recorded_at),
            "activated_at": _time(self.kek.activated_at),
            "retired_at": _time(self.kek.retired_at),
            "retirement": self.kek.retirement,
            "configured": self.configured,
        }

    def as_cells(self) -> tuple[str, ...]:
        """Return it for the table."""
        kek, rows = self.kek, self.rows
        return (
            kek.kek_id,
            kek.state,
            kek.backend or _NONE,
            kek.locator or _NONE,
            _UNSEEN if rows is None else str(rows.wraps),
            _UNSEEN if rows is None else str(rows.format_1),
            _UNSEEN if rows is None else str(rows.quarantined),
            _time(kek.recorded_at) or _NONE,
            (_time(kek.activated_at) if kek.state == "active" else None) or _NONE,
            _time(kek.retired_at) or _NONE,
            _HERE[self.configured],
        )


def table(listed: Iterable[ListedKek]) -> str:
    """Return all KEKs as text, one a line, under headings."""
    lines = [_HEADINGS, *(tuple(map(_printable, kek.as_cells())) for kek in listed)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _printable(text: str) -> str:
    """Keep what a row says of itself from steering the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _time(at: datetime | None) -> str | None:
    if at is None:
        return None
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"
