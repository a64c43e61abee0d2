"""How the page shows values: numbers, moments, ages, and the lines of charts."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

_LONGEST = 400
# Letters alone: it can't be part of markup.
_OPTION = re.compile(r"--[a-z][a-z-]*")
_THIN = "\N{NARROW NO-BREAK SPACE}"
_NOTHING = "\N{EN DASH}"
_MINUTE = 60
_UNITS = ((86_400, "day"), (3600, "hour"), (_MINUTE, "minute"))
# Below that, a value has a digit behind the point.
_FEW = 10
_NEARLY_ALL = 99
WIDTH, HEIGHT = 300, 64


def number(value: float) -> str:
    """Return a number with its thousands apart."""
    return f"{value:,.0f}".replace(",", _THIN)


def rate(value: float | None) -> str:
    """Return a rate: small ones with a digit behind the point."""
    if value is None:
        return _NOTHING
    return number(value) if value >= _FEW or value == 0 else f"{value:.1f}"


def duration(seconds: float | None) -> str:
    """Return a short time."""
    if seconds is None:
        return _NOTHING
    if seconds >= 1:
        return f"{seconds:.1f}{_THIN}s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.{0 if milliseconds >= _FEW else 1}f}{_THIN}ms"


def span(seconds: float) -> str:
    """Return a longer time in its one or two greatest units."""
    for index, (length, name) in enumerate(_UNITS):
        if seconds >= length:
            count, rest = divmod(int(seconds), length)
            text = _several(count, name)
            if count == 1 and index + 1 < len(_UNITS):
                smaller, its_name = _UNITS[index + 1]
                if more := rest // smaller:
                    text += f" {_several(more, its_name)}"
            return text
    return "less than a minute"


def left(seconds: float | None) -> str:
    """Return how long something will take, to the second where that is soon."""
    if seconds is None:
        return "not known yet"
    return f"{max(1, round(seconds))} s" if seconds < 2 * _MINUTE else span(seconds)


def ago(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment was."""
    seconds = (now - moment).total_seconds()
    return "just now" if seconds < _MINUTE else f"{span(seconds)} ago"


def until(moment: datetime, now: datetime) -> str:
    """Return how far ahead a moment is."""
    seconds = (moment - now).total_seconds()
    return "now" if seconds < _MINUTE else f"in {span(seconds)}"


def utc(moment: datetime | float) -> str:
    """Return a moment for people, in UTC."""
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def clock(seconds: float) -> str:
    """Return the time of day of a moment, in UTC, to the second."""
    return f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S}"


def iso(moment: datetime) -> str:
    """Return a moment for programs."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def percent(part: float, whole: float) -> str:
    """Return a share, in percent; never 0 of something, nor 100 of not all."""
    if not whole:
        return "0"
    share = round(100 * part / whole)
    if share == 0 and part:
        return "<1"
    return ">99" if part < whole and 100 * part / whole > _NEARLY_ALL else str(share)


def width(part: float, whole: float) -> str:
    """Return the width of a bar's piece, in hundredths of it; something is never invisible."""
    if not whole or not part:
        return "0"
    return f"{max(0.6, 100 * part / whole):.2f}"


def short(text: str) -> str:
    """Return a text that does not come from us: what is there to be printed, and not too much."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    return clean if len(clean) <= _LONGEST else f"{clean[:_LONGEST]}…"


def told(text: str) -> Markup:
    """Return such a text with the options of its commands whole: no line breaks within one."""
    escaped = str(escape(short(text)))
    return Markup(_OPTION.sub(r'<span class="whole">\g<0></span>', escaped))  # noqa: S704 - it is


def line(values: Sequence[float | None], most: float) -> str:
    """Return the path of a line through values; it has gaps where nothing is known.

    Args:
        values: at even distances.
        most: what reaches the top.
    """
    steps, pen = [], "M"
    for index, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        x = WIDTH * index / max(1, len(values) - 1)
        steps.append(f"{pen}{x:.1f} {_y(value, most):.1f}")
        pen = "L"
    # A single point is a dot: a line of no length with round ends.
    return " ".join(steps) + ("h0.1" if len(steps) == 1 else "")


def area(values: Sequence[float | None], most: float) -> str:
    """Return the path of what is below such a line."""
    known = [index for index, value in enumerate(values) if value is not None]
    if len(known) <= 1:
        return ""
    step = WIDTH / max(1, len(values) - 1)
    inner = " ".join(f"L{step * index:.1f} {_y(values[index] or 0, most):.1f}" for index in known)
    return f"M{step * known[0]:.1f} {HEIGHT} {inner} L{step * known[-1]:.1f} {HEIGHT}Z"


def _y(value: float, most: float) -> float:
    return HEIGHT - (HEIGHT - 2) * (value / most if most else 0) - 1


def _several(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


FILTERS: Mapping[str, Callable[..., Any]] = {
    one.__name__: one
    for one in (
        *(number, rate, duration, span, left, ago, until, utc, clock, iso),
        *(percent, width, short, told, line, area),
    )
}
