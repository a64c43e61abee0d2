"""custody openapi."""

import json

import click

from custody.http.openapi import document


def openapi() -> None:
    """Print the OpenAPI 3.1 document of the vault's routes."""
    click.echo(json.dumps(document(), indent=2))
