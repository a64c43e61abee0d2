"""Shows what was seen, a line each."""

from collections.abc import Sequence

from tests.chaos.fault import Result

_HEADS = ("faults", "requests", "errors", "lost", "wrong", "back s")
_SHOWN = 10


def show(results: Sequence[Result]) -> str:
    """Return the table, and below it what the errors were, and what was found."""
    wide = max(len(one.fault) for one in results)
    lines = [" " * wide + "".join(f"{head:>10}" for head in _HEADS)]
    for one in results:
        if one.skipped:
            lines.append(f"{one.fault:<{wide}}  not tried: {one.skipped}")
            continue
        cells = (one.faults, one.requests, sum(one.errors.values()), len(one.lost), len(one.wrong))
        shown = "".join(f"{cell:>10}" for cell in cells)
        lines.append(f"{one.fault:<{wide}}{shown}{one.back:>10.1f}")
    lines.append("")
    for one in results:
        if one.errors:
            said = ", ".join(f"{count} {code}" for code, count in one.errors.items())
            lines.append(f"{one.fault}: not served: {said}")
        lines += [f"{one.fault}: {text}" for text in (one.lost + one.wrong)[:_SHOWN]]
    return "\n".join([*lines, ""])
