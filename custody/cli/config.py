"""custody config."""

import click

from custody.cli.options import as_json


@click.command()
@as_json
def config(as_json: bool) -> None:
    """Show the settings in force, without passwords."""
    from custody.cli.commands.config import config as run

    run(as_json)
