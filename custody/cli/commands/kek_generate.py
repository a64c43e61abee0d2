"""custody kek generate."""

import json
from pathlib import Path

import click

from custody.cli.exit_codes import FINDING
from custody.keks.generate import as_text, random_key, write_new
from custody.ops.process import harden


def generate(output: Path | None, *, raw: bool, as_json: bool) -> int:
    """Make a new random KEK for env: or systemd:, and print it in base64."""
    harden()
    key = random_key()
    if output is None:
        click.echo(json.dumps({"key": as_text(key)}) if as_json else as_text(key))
    else:
        try:
            write_new(output, key if raw else f"{as_text(key)}\n".encode())
        except OSError as error:
            click.echo(
                f"custody: no key was written to {output}: {error.strerror}; name a new file",
                err=True,
            )
            return FINDING
        click.echo(json.dumps({"file": str(output)}) if as_json else f"wrote {output}")
    click.echo(_next_steps(output, raw=raw), err=True)
    return 0


def _next_steps(output: Path | None, *, raw: bool) -> str:
    file = "/path/to/the/key" if output is None else output.resolve()
    steps = [
        "Keep a copy offline, apart from the backups of the database: without the key, vaults are",
        "lost. Then, with a name and an id of your own:",
        f"  systemd:  LoadCredential=NAME:{file} in the unit, and CUSTODY_KEK=systemd:NAME",
    ]
    if not raw:
        steps.append(f"  env:      NAME_FILE={file}, and CUSTODY_KEK=env:NAME?id=ID")
    steps.append("List the KEK used so far in CUSTODY_OLD_KEKS, run custody doctor, and restart.")
    return "\n".join(steps)
