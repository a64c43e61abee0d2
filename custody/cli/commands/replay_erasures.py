"""custody users replay-erasures."""

import json

import click

from custody.cli.commands import event_loop
from custody.cli.commands.progress import counted
from custody.cli.commands.shown import note
from custody.cli.commands.users import owner_of
from custody.cli.exit_codes import FINDING
from custody.db.dsn import Dsn
from custody.db.erase import due_erasures, replaying
from custody.db.erasure_record import SETTING, Erasure, read_record
from custody.settings import ConfigurationError, load


def run(*, dry: bool, as_json: bool) -> int:
    """Erase again whom the database still has; return the exit code."""
    settings = load()
    owner = owner_of(settings)
    if settings.erasure_record is None:
        raise ConfigurationError(f"{SETTING} must be set: the file that keeps who was erased")
    record = read_record(settings.erasure_record)
    if record.is_torn:
        note("the last line of the record was cut off in writing: that erasure was not made")
    return event_loop.run(_replay(owner, record.erasures, dry=dry, as_json=as_json))


async def _replay(owner: Dsn, erasures: tuple[Erasure, ...], *, dry: bool, as_json: bool) -> int:
    due = await due_erasures(owner, erasures)
    vaults = users = 0
    if due and not dry:
        with counted("erased again", len(due), "erasures") as advance:
            async with replaying(owner) as replay:
                for erasure in due:
                    erased = await replay.erase(erasure)
                    vaults += erased.vault
                    users += erased.user
                    advance(1)
    left = await due_erasures(owner, due) if due and not dry else due
    if as_json:
        said = {"recorded": len(erasures), "due": len(due), "vaults": vaults, "users": users}
        click.echo(json.dumps({**said, "left": len(left)}))
    elif dry:
        click.echo(f"{len(due)} of {len(erasures)} erasures on record are due")
    else:
        click.echo(
            f"{len(due) - len(left)} of {len(erasures)} erasures on record were made again: "
            f"{vaults} vaults and {users} users were removed"
        )
    if not left or dry:
        return 0
    note(
        f"{len(left)} are still due: other audit rows stand under their ids; see: custody audit "
        "verify"
    )
    return FINDING
