"""custody kek drill."""

import contextlib
import json
import os
from functools import partial
from pathlib import Path

import click

from custody.cli.commands import event_loop
from custody.cli.commands.progress import counted
from custody.cli.commands.rewrap_role import reading_engine
from custody.cli.commands.shown import note, printable
from custody.cli.commands.startup import prepare
from custody.cli.exit_codes import FINDING, UNAVAILABLE
from custody.cli.output import OutputLost
from custody.datakeys.drill import Drilled, drill
from custody.datakeys.ring import Ring
from custody.keks.second import VARIABLE, load_second
from custody.ops.drill_metrics import write_drill
from custody.settings import ConfigurationError, Settings
from kek_backends.keyring import Keyring


def run(textfile: Path | None, *, as_json: bool) -> int:
    """Prove that the second root alone opens every data key."""
    try:
        settings = prepare()
        found = event_loop.run(_drill(settings))
    except Exception:
        # The metrics of the last time must not say that all is well.
        with contextlib.suppress(OutputLost):
            _write(textfile, None)
        raise
    uri = settings.second_kek or ""
    click.echo(json.dumps(_as_object(uri, found)) if as_json else "\n".join(_lines(uri, found)))
    _write(textfile, found)
    if found.is_success:
        return 0
    for problem in found.problems:
        note(printable(problem))
    return UNAVAILABLE if found.only_waits else FINDING


async def _drill(settings: Settings) -> Drilled:
    backend = load_second(settings, os.environ)
    if backend is None:
        what = Settings.model_fields["second_kek"].description
        raise ConfigurationError(f"{VARIABLE} must be set: {what}")
    try:
        async with reading_engine(settings) as engine:
            keyring = Keyring(backend)
            ring = Ring(engine, keyring, settings.data_key_ttl, settings.data_key_max_age)
            shown = partial(counted, "drilled", unit="data keys")
            return await drill(engine, backend, ring, shown)
    finally:
        await backend.close()


def _lines(uri: str, found: Drilled) -> list[str]:
    lines = [
        printable(f"data key {key.id}: {key.problem or f'opens under {found.kek_id}'}")
        for key in found.keys
    ]
    count = f"{found.opened} of {len(found.keys)} data keys"
    return [*lines, f"the second root, {uri}, alone opens {count}"]


def _as_object(uri: str, found: Drilled) -> dict[str, object]:
    return {
        "second_kek": uri,
        "kek_id": found.kek_id,
        "success": found.is_success,
        "data_keys": [
            {"id": key.id, "opens": key.problem is None, "problem": key.problem}
            for key in found.keys
        ],
        "problems": list(found.problems),
    }


def _write(textfile: Path | None, found: Drilled | None) -> None:
    """Write the metrics, where they are wanted; None: the drill did not come to its end.

    Raises:
        OutputLost: they can't be written.
    """
    if textfile is None:
        return
    success, opened = (found.is_success, found.opened) if found else (False, 0)
    try:
        write_drill(textfile, success=success, data_keys=opened)
    except OSError as error:
        raise OutputLost(f"{textfile} could not be written: {error.strerror}") from None
