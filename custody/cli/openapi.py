"""custody openapi."""

import click

from custody.cli.options import examples


@click.command(epilog=examples("openapi > openapi.json"))
def openapi() -> None:
    """Print the OpenAPI 3.1 document of the vault's routes."""
    from custody.cli.commands.openapi import openapi as run

    run()
