"""How commands show a value on a terminal."""

from datetime import UTC, datetime

import click


def time(at: datetime) -> str:
    """Return a time in UTC, to the second, as ISO 8601 has it: 2026-03-02T16:02:41Z."""
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def note(line: str) -> None:
    """Say something on standard error, beside what the command prints."""
    click.echo(f"custody: {line}", err=True)


def printable(text: str) -> str:
    """Keep what a row says of itself from steering the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
