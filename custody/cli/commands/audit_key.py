"""custody audit key."""

import json

import click

from custody.audit.checkpoint import Checkpoint, MalformedCheckpoint
from custody.audit.ended_key import believed
from custody.audit.note import MalformedNote, parse, verifier_key
from custody.cli.commands import event_loop
from custody.cli.commands.audit_role import audit_reader
from custody.cli.commands.shown import note
from custody.cli.commands.startup import prepare
from custody.cli.exit_codes import FINDING
from custody.settings import Settings


def run(*, as_json: bool) -> int:
    """Show the public keys by which others verify checkpoints."""
    keys, problem = event_loop.run(_keys(prepare()))
    if as_json:
        listed = [{"data_key": key_id, "verifier_key": key} for key_id, key in keys]
        click.echo(json.dumps(listed))
    else:
        for _, key in keys:
            click.echo(key)
    if problem is not None:
        note(problem)
    return 0 if keys and problem is None else FINDING


async def _keys(settings: Settings) -> tuple[list[tuple[str, str]], str | None]:
    async with audit_reader(settings) as (reader, ring):
        last = await reader.find()
        if last is None:
            return [], "there is no checkpoint yet: a daemon that serves makes the first"
        try:
            origin = Checkpoint.parse(parse(last["note"]).text).origin
        except (MalformedNote, MalformedCheckpoint):
            return [], "the last checkpoint is none of ours; see: custody audit verify"
        publics = {key.id: key.audit_signer.public_key() for key in ring.open_keys}
        for key in believed(await reader.ended_words(), ring.open_keys):
            publics[key.id] = key.verifier
        keys = [
            (key_id, verifier_key(origin, public)) for key_id, public in sorted(publics.items())
        ]
        return keys, ring.problem or ring.degraded
