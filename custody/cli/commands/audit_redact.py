"""custody audit redact."""

import json
from datetime import datetime

import click

from custody.audit.redact import count_without_seal, redact
from custody.cli.commands import event_loop
from custody.cli.commands.audit_role import rows_owner
from custody.cli.commands.progress import counted
from custody.cli.commands.shown import note
from custody.cli.commands.startup import prepare
from custody.settings import Settings


def run(before: datetime, *, as_json: bool) -> None:
    """Take address and user agent out of the rows from before a time."""
    done, left = event_loop.run(_redact(prepare(), before))
    if as_json:
        click.echo(json.dumps({"redacted": done, "left": left}))
        return
    click.echo(f"address and user agent were taken out of {done} rows")
    if left:
        note(f"{left} rows have no seal and keep theirs: they go with a prune")


async def _redact(settings: Settings, before: datetime) -> tuple[int, int]:
    async with rows_owner(settings) as (_, engine):
        with counted("redacted", None) as advance:
            done = await redact(engine, before, advance)
        return done, await count_without_seal(engine, before)
