"""custody audit tail."""

import asyncio
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from custody.audit.exported import as_object, time_of
from custody.audit.reading import HIGHEST, PAGE, Reader
from custody.audit.settled import STUCK
from custody.cli.commands import event_loop, shown
from custody.cli.commands.audit_role import rows_reader
from custody.cli.commands.shown import note, printable
from custody.cli.commands.startup import prepare
from custody.db.errors import DatabaseError
from custody.settings import Settings

_POLL_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
# So much of a user agent is shown; what is cut off has an ellipsis in its place.
_USER_AGENT = 40
_SHORTER = (
    "the audit is shorter than it was: a backup was restored, or a failover lost rows; see: "
    "custody audit verify"
)

Show = Callable[[Sequence[Mapping[str, Any]]], None]


@dataclass(frozen=True)
class Chosen:
    """Which rows are shown.

    Args:
        user: whose; None: everybody's.
        actions: which ones; none: all.
    """

    user: str | None
    actions: Collection[str]

    def has(self, row: Mapping[str, Any]) -> bool:
        """Say whether a row is one of them."""
        return (self.user is None or row["user_id"] == self.user) and (
            not self.actions or row["action"] in self.actions
        )


def run(
    user: str | None, actions: tuple[str, ...], lines: int, *, follow: bool, as_json: bool
) -> None:
    """Show the newest rows, and go on with new ones."""
    show = _show_json if as_json else _shower()
    chosen = Chosen(user, actions)
    event_loop.run(_tail(prepare(), chosen, lines, show, follow=follow))


async def _tail(
    settings: Settings, chosen: Chosen, lines: int, show: Show, *, follow: bool
) -> None:
    async with rows_reader(settings) as reader:
        if not follow:
            show(await reader.newest(lines, HIGHEST, chosen.user, list(chosen.actions)))
            return
        while (settled := await reader.settled()) is None:
            note(f"waits: {STUCK}")
        show(await reader.newest(lines, settled, chosen.user, list(chosen.actions)))
        await _follow(reader, settled, chosen, show)


async def _follow(reader: Reader, number: int, chosen: Chosen, show: Show) -> None:
    """Show what comes behind a number, for ever; what the database does meanwhile ends nothing."""
    pause, problem = _POLL_SECONDS, ""
    while True:
        await asyncio.sleep(pause)
        try:
            if (settled := await reader.settled()) is None:
                note(f"waits: {STUCK}")
                continue
            if settled < number:
                note(_SHORTER)
                number = settled
            # A page is shown before the next one is asked for: none is shown twice.
            while number < settled:
                page = await reader.rows(number + 1, settled)
                show([row for row in page if chosen.has(row)])
                number = page[-1]["number"] if len(page) == PAGE else settled
        except DatabaseError as error:
            if not problem:
                problem = str(error) or type(error).__name__
                note(f"waits for the database: {printable(problem)}")
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        else:
            if problem:
                note("the database is back")
            pause, problem = _POLL_SECONDS, ""


def _show_json(rows: Sequence[Mapping[str, Any]]) -> None:
    click.echo("".join(f"{json.dumps(as_object(row))}\n" for row in rows), nl=False)


def _shower() -> Show:
    """Return what shows rows to people: with colours where it is a terminal."""
    if not sys.stdout.isatty():
        return lambda rows: click.echo("".join(f"{line_of(row)}\n" for row in rows), nl=False)
    console = Console(file=sys.stdout, highlight=False)

    def show(rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            console.print(Text(line_of(row), style=_style(row)), soft_wrap=True)

    return show


def line_of(row: Mapping[str, Any]) -> str:
    """Return a row as one line: time, user, action, context, status, address, user agent."""
    at, agent = time_of(row), row["user_agent"] or "-"
    if len(agent) > _USER_AGENT:
        agent = f"{agent[: _USER_AGENT - 1]}…"
    columns = (
        f"{'-' if at is None else shown.time(at):<20}",
        f"{row['user_id'] or '-':<20}",
        f"{row['action']:<14}",
        f"{row['context'] or '-':<18}",
        f"{row['status']:<3}",
        f"{row['ip_address'] or '-':<15}",
        agent,
    )
    return printable("  ".join(columns))


def _style(row: Mapping[str, Any]) -> str:
    """Return how a row stands out: failures more than refusals."""
    if row["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "bold red"
    return "yellow" if row["status"] >= HTTPStatus.BAD_REQUEST else ""
