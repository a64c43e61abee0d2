"""Prints rows as a table, and writes them as JSON."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.rounds import Row

_HEADS = ("conns", "rate/s", "±%", "p50 ms", "p99 ms", "max ms", "errors")


def show(rows: Sequence[Row], about: Mapping[str, object]) -> str:
    """Return the table, under a line that says on what it was measured."""
    lines = [f"{name}: {flat(value)}" for name, value in about.items()]
    wide = max(len(row.name) for row in rows)
    ratios = list(dict.fromkeys(column for row in rows for column in row.ratios))
    heads = [*_HEADS, *(f"{name} %" for name in rows[0].cpu), "MiB"]
    heads += [f"/{column}" for column in ratios]
    lines += ["", " " * wide + "".join(f"{head:>9}" for head in heads)]
    above = rows[0].name
    for row in rows:
        if row.name != above:
            lines.append("")
        above = row.name
        lines.append(f"{row.name:<{wide}}" + "".join(f"{cell:>9}" for cell in _cells(row, ratios)))
    for row in rows:
        if row.errors:
            lines.append(f"errors of {row.name} at {row.connections}: {flat(row.errors)}")
    return "\n".join([*lines, ""])


def _cells(row: Row, ratios: Sequence[str]) -> list[str]:
    return [
        str(row.connections),
        f"{row.rate:,.0f}",
        f"{row.spread:.0f}",
        *(f"{value:.2f}" for value in (row.p50, row.p99, row.longest)),
        str(sum(row.errors.values())),
        *(f"{percent:.0f}" for percent in row.cpu.values()),
        f"{row.resident:.0f}" if row.resident else "",
        *(f"{row.ratios[name]:.2f}" if name in row.ratios else "" for name in ratios),
    ]


def flat(value: object) -> str:
    """Return a value as text; a mapping on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return str(value)


def report(rows: Sequence[Row], about: Mapping[str, object], path: Path | None) -> None:
    """Print the table; with a path, also write all of it there as JSON."""
    sys.stdout.write(show(rows, about))
    write_json(path, {"about": about, "rows": rows})


def write_json(path: Path | None, value: object) -> None:
    """Write a value with all its dataclasses, where there is a path."""
    if path is not None:
        path.write_text(json.dumps(value, indent=2, default=dataclasses.asdict) + "\n", "utf-8")
