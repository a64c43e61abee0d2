"""custody dev."""

from pathlib import Path

import click

from custody.cli.options import data_folder, examples


@click.command(epilog=examples("dev", "dev --data /tmp/another --free-ports"))
@data_folder("Folder that keeps the database and the issuer's key between runs.")
@click.option(
    "--free-ports",
    is_flag=True,
    help="Listen on ports that are free, whatever the settings say: beside another custody.",
)
def dev(data: Path, free_ports: bool) -> None:
    """Run the daemon for development, with nothing to configure.

    Starts a PostgreSQL of its own, migrates it, makes a token issuer, and serves a page to see
    it all in a browser. Other settings given as variables are honoured. Never for real users'
    keys.
    """
    from custody.cli.commands.dev import dev as run

    run(data, free_ports=free_ports)
