"""Prints what was seen of the attacks."""

from collections.abc import Mapping, Sequence

from tests.bench.chaos.verdict import Row, failures
from tests.bench.table import flat

_HEADS = ("asked", "errors", "p50 ms", "p99 ms", "/before", "livez s", "readyz s", "back s")
_CPU = ("daemon", "rest")
_BUSY_PERCENT = 50


def show(rows: Sequence[Row], about: Mapping[str, object]) -> str:
    """Return the table, under lines that say on what it was measured, above what was sent."""
    lines = [f"{name}: {flat(value)}" for name, value in about.items()]
    wide = max(len(row.attack) for row in rows) + 1
    heads = [*_HEADS, *(f"{name} %" for name in _CPU)]
    lines += ["", " " * wide + "".join(f"{head:>9}" for head in heads)]
    for row in rows:
        cells = "".join(f"{cell:>9}" for cell in _cells(row))
        lines.append(f"{row.attack:<{wide}}{cells}  {'FAILED' if failures(row) else 'held'}")
    for row in rows:
        lines += ["", *_more(row)]
    return "\n".join([*lines, ""])


def _cells(row: Row) -> list[str]:
    seen = row.meanwhile
    return [
        str(seen.requests),
        str(sum(seen.errors.values()) + sum(row.after.errors.values())),
        f"{seen.p50:.1f}",
        f"{seen.p99:.1f}",
        f"{row.ratio:.1f}",
        *(f"{row.worst.get(probe, 0.0):.2f}" for probe in ("livez", "readyz")),
        "never" if row.back is None else f"{row.back:.1f}",
        *(f"{max(0.0, row.cpu[name]):.0f}" for name in _CPU),
    ]


def _more(row: Row) -> list[str]:
    """Say what was sent, and all that was not as it should be."""
    opened = [one.connections for one in (row.open_before, row.open_most, row.open_after)]
    memory = [one.mib for one in (row.open_before, row.open_most, row.open_after)]
    lines = [
        f"{row.attack}:",
        f"  attackers: {flat(row.sent)}",
        "  connections before, at most, after: {}, {}, {}; MiB: {:.0f}, {:.0f}, {:.0f}".format(
            *opened, *memory
        ),
    ]
    for name, seen in (("meanwhile", row.meanwhile), ("after", row.after)):
        if seen.errors:
            lines.append(f"  honest users {name}: {flat(seen.errors)}")
    if row.logged:
        lines.append(f"  log: {flat(row.logged)}")
    if row.cpu["rest"] > _BUSY_PERCENT:
        lines.append(f"  others used {row.cpu['rest']:.0f} % of a core meanwhile: times say little")
    return lines + [f"  FAILED: {failure}" for failure in failures(row)]
