"""custody audit export."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path

import click

from custody.audit.export import FORMATS, Export, Format, Place, Span, text_of
from custody.audit.export_file import ExportFile, FileLost, UnfitFile, export_file
from custody.audit.reading import LOWEST
from custody.audit.settled import STUCK
from custody.cli.commands import event_loop
from custody.cli.commands.audit_role import rows_reader
from custody.cli.commands.progress import counted
from custody.cli.commands.shown import note
from custody.cli.commands.startup import prepare
from custody.cli.output import OutputLost
from custody.db.errors import Busy, DatabaseError
from custody.settings import Settings


def run(
    format_: str, since: int | datetime | None, until: datetime | None, output: Path | None
) -> None:
    """Export the audit."""
    settings, chosen = prepare(), FORMATS[format_]
    begin = Place(since, None) if isinstance(since, int) else Place()
    span = Span(since if isinstance(since, datetime) else None, until)
    try:
        with nullcontext() if output is None else export_file(output, chosen) as file:
            event_loop.run(_export(settings, chosen, begin, span, file))
    except UnfitFile as error:
        raise click.UsageError(str(error)) from None
    except FileLost as error:
        raise OutputLost(f"{error}; run it again to go on") from None


async def _export(
    settings: Settings, format_: Format, begin: Place, span: Span, file: ExportFile | None
) -> None:
    place = begin if file is None or file.place is None else file.place
    async with rows_reader(settings) as reader:
        if (settled := await reader.settled()) is None:
            raise Busy(STUCK)
        if place.row > settled:
            note(
                f"the last row is {settled}, and not {place.row} or later: a backup was restored, "
                "or a failover lost rows; see: custody audit verify"
            )
        first = next(iter(await reader.checkpoints(LOWEST)), None)
        if first is not None and first["number"] > 1 and place.row < first["last_row"]:
            note(
                f"rows up to {first['last_row']} were pruned: of those behind {max(0, place.row)} "
                "only what was kept is here; the rest is in the exports that the prune was given"
            )
        export = Export(reader, format_, place, span)
        try:
            with _progress(place.row, settled, to_file=file is not None) as show:
                async for lines, number in export.lines(settled):
                    if file is None:
                        click.echo(text_of(lines), nl=False)
                    else:
                        file.write(text_of(lines))
                    show(number)
            if file is not None:
                file.sync()
        except DatabaseError:
            _say_where_it_is(place)
            raise
        _say_where_it_is(place)


def _say_where_it_is(place: Place) -> None:
    if place.row < LOWEST:
        note("no row was exported")
    else:
        note(f"the next export goes on with: --since {place.row}")


@contextmanager
def _progress(begin: int, end: int, *, to_file: bool) -> Iterator[Callable[[int], None]]:
    """Show how far it is, unless the lines themselves go to a terminal."""
    if sys.stdout.isatty() and not to_file:
        yield lambda _number: None
        return
    at = begin = max(0, begin)
    with counted("exported", max(0, end - begin)) as advance:

        def show(number: int) -> None:
            nonlocal at
            advance(number - at)
            at = number

        yield show
