"""custody token."""

from pathlib import Path

import click

from custody.cli.options import as_json, data_folder, examples


@click.command(epilog=examples("token --sub alice", "token --sub alice --lifetime 60 --json"))
@click.option("--sub", required=True, help="The user.")
@data_folder("The folder of custody dev.")
@click.option("--audience", default="mana", show_default=True, help="The token's aud.")
@click.option(
    "--lifetime",
    metavar="SECONDS",
    type=click.IntRange(1, 366 * 24 * 60 * 60),
    default=60 * 60,
    show_default=True,
    help="Seconds until it expires.",
)
@as_json
def token(sub: str, data: Path, audience: str, lifetime: int, as_json: bool) -> None:
    """Print a token of custody dev's issuer (development only)."""
    from custody.cli.commands.token import token as run

    run(sub, data, audience=audience, lifetime=lifetime, as_json=as_json)
