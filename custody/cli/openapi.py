"""custody openapi."""

import click


@click.command()
def openapi() -> None:
    """Print the OpenAPI 3.1 document of the vault's routes."""
    from custody.cli.commands.openapi import openapi as run

    run()
