"""custody token."""

import json
from pathlib import Path

import click

from custody.auth.development import DevelopmentIssuer
from custody.cli.dev import DEFAULT_FOLDER


@click.command()
@click.option("--sub", required=True, help="The user.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="The folder of custody dev.",
)
@click.option("--audience", default="mana", show_default=True, help="The token's aud.")
@click.option(
    "--lifetime",
    type=click.IntRange(1, 366 * 24 * 60 * 60),
    default=60 * 60,
    show_default=True,
    help="Seconds until it expires.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def token(sub: str, data: Path, audience: str, lifetime: int, as_json: bool) -> None:
    """Print a token of custody dev's issuer (development only)."""
    text = DevelopmentIssuer.open(data).token(sub, audience=audience, lifetime=lifetime)
    click.echo(json.dumps({"token": text, "sub": sub, "lifetime": lifetime}) if as_json else text)
