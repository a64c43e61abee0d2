"""Rows as whoever writes the database may leave them, by rule; and what each must come to."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
Wrap: TypeAlias = tuple[Any, ...]

WRAP = ("wrapped_mk", "wrap_iv", "format_version", "kek_id")
SEALED = (
    "generation",
    "zero_knowledge",
    "key_check",
    "recovery_wrapped_mk",
    "recovery_iv",
    "recovery_format_version",
    "recovery_set_at",
    "seal",
    "seal_serial",
)
COLUMNS = (*WRAP, *SEALED)
# By the CHECKs neither is there without the other.
_PAIRS = ("wrapped_mk", "wrap_iv"), ("recovery_wrapped_mk", "recovery_iv")
MOST = 2**63 - 1
# As asyncpg has them.
INFINITE = tuple(
    datetime.fromisoformat(day) for day in ("9999-12-31T23:59:59.999999", "0001-01-01")
)
_FORMATS = (-1, 0, 1, 2, 4, 32767)
_TEXTS = ("wrapped_mk", "wrap_iv", "kek_id", "key_check", "recovery_wrapped_mk", "recovery_iv")


@dataclass(frozen=True)
class Tampering:
    """What is written over a row.

    Args:
        name: of the case.
        values: by column.
    """

    name: str
    values: Row


def singles(good: Row, sources: Mapping[str, Row]) -> Iterator[Tampering]:
    """Give each column each of its values, and that of each source; a wrap with its nonce, too.

    Args:
        good: the row as it is.
        sources: other rows, by what they are.
    """
    for column in COLUMNS:
        for value in _others(column, good[column]):
            yield Tampering(f"{column} = {value!r}, not {good[column]!r}", {column: value})
        for name, source in sources.items():
            yield Tampering(f"{column} of {name}", {column: source[column]})
    for pair in _PAIRS:
        yield Tampering(f"no {pair[0]}", dict.fromkeys(pair))
        for name, source in sources.items():
            values = {column: source[column] for column in pair}
            yield Tampering(f"{' and '.join(pair)} of {name}", values)


def several(sources: Mapping[str, Row]) -> Iterator[Tampering]:
    """Give two columns, the wrap's, and all but one, to a row out of each source.

    Args:
        sources: other rows, by what they are.
    """
    chosen = [
        *itertools.combinations(COLUMNS, 2),
        WRAP,
        (*WRAP, "key_check"),
        (*WRAP, "key_check", "generation"),
        *itertools.combinations(COLUMNS, len(COLUMNS) - 1),
    ]
    for name, source in sources.items():
        for columns in chosen:
            values = {column: source[column] for column in columns}
            yield Tampering(f"{', '.join(columns)} of {name}", values)


def _others(column: str, value: Any) -> Sequence[Any]:
    if column in _TEXTS:
        return (None, *_texts(value))
    match column:
        case "seal":
            other_key = f"{value[:5]}{'1' if value[5] == '0' else '0'}{value[6:]}"
            version, by_itself = "2" + value[1:], value[:38]
            return None, *_texts(value), other_key, version, by_itself, value[38:], value + value
        case "format_version" | "recovery_format_version":
            return _FORMATS
        case "zero_knowledge":
            return (not value,)
        case "recovery_set_at":
            later = datetime.now(UTC) if value is None else value + timedelta(microseconds=1)
            return None, later, *INFINITE
        case _:
            return value - 1, value + 1, 0, -1, MOST, -MOST


def _texts(value: str | None) -> tuple[str, ...]:
    if not value:
        return "", "x", "ключ"
    first = "B" if value[0] == "A" else "A"
    off = f"{value[:-1]}{'f' if value[-1] == 'e' else 'e'}"
    return (
        "",
        value[:-1],
        off,
        first + value[1:],
        value.swapcase(),
        value[::-1],
        f"{value}=",
        "ключ",
    )


@dataclass
class Ledger:
    """What a user's row was, each time that the daemon has stored it.

    Args:
        kek_ids: of the KEKs that are configured.
        states: rows that were stored, each with the master key of then.
        wraps: what genuine wraps hold: generation and master key.
    """

    kek_ids: frozenset[str]
    states: list[tuple[Row, str]] = field(default_factory=list)
    wraps: dict[Wrap, tuple[int, str]] = field(default_factory=dict)

    def note(self, row: Row, key: str) -> None:
        """Note what the daemon has stored."""
        self.states.append((row, key))
        self.note_wrap(row, key)

    def note_wrap(self, row: Row, key: str) -> None:
        """Note a genuine wrap, which may never have been in the row."""
        if row["wrapped_mk"] is not None:
            self.wraps[_wrap(row)] = row["generation"], key

    def secrets(self) -> set[str]:
        """Return all keys and recovery wraps that no answer may hold."""
        keys = {key for _, key in self.states} | {key for _, key in self.wraps.values()}
        return keys | {row["recovery_wrapped_mk"] for row, _ in self.states} - {None}

    def expect(self, row: Row) -> "Expected":
        """Say what becomes of a row: the rule, in the words of docs/adr, 17."""
        if row["seal"] is None:
            return LEGACY
        key = next((key for there, key in self.states if _sealed(there) == _sealed(row)), None)
        if key is None:
            return TAMPERED
        if row["wrapped_mk"] is None:
            return Expected(200, 200, blob=row["recovery_wrapped_mk"])
        return self._expect_of_wrap(row, key)

    def _expect_of_wrap(self, row: Row, key: str) -> "Expected":
        if row["format_version"] < 3:
            return TAMPERED
        # No more is known of the row without a KEK: the status is what was sealed.
        if row["kek_id"] not in self.kek_ids:
            return Expected(503, 200, "KEK_UNAVAILABLE", "kek-not-configured")
        held = self.wraps.get(_wrap(row))
        if held == (row["generation"], key):
            return Expected(200, 200, key=key)
        return Expected(500, 200, "ROW_TAMPERED", "row-tampered")


@dataclass(frozen=True)
class Expected:
    """What the routes answer.

    Args:
        status: of GET /key and POST /init.
        of_status: of GET /status.
        code: of the problem.
        context: of the audit row.
        key: that is handed out.
        blob: that is handed out.
    """

    status: int
    of_status: int
    code: str | None = None
    context: str | None = None
    key: str | None = None
    blob: str | None = None


TAMPERED = Expected(500, 500, "ROW_TAMPERED", "row-tampered")
LEGACY = Expected(500, 500, "ROW_TAMPERED", "legacy-row")


def _wrap(row: Row) -> Wrap:
    # Padding that is too much is no other wrap: the bytes are the same.
    wrapped, iv, *rest = (row[column] for column in WRAP)
    return wrapped.rstrip("="), iv.rstrip("="), *rest


def _sealed(row: Row) -> tuple[Any, ...]:
    return (*(row[column] for column in SEALED), row["wrapped_mk"] is None)
