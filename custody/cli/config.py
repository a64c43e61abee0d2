"""custody config."""

import click

from custody.cli.options import as_json, examples


@click.command(epilog=examples("config", "config --json"))
@as_json
def config(as_json: bool) -> None:
    """Show the settings in force, without passwords."""
    from custody.cli.commands.config import config as run

    run(as_json)
