"""custody token."""

import json
from pathlib import Path

import click

from custody.development.issuer import DevelopmentIssuer


def token(sub: str, data: Path, *, audience: str, lifetime: int, as_json: bool) -> None:
    """Print a token of custody dev's issuer (development only)."""
    text = DevelopmentIssuer.open(data).token(sub, audience=audience, lifetime=lifetime)
    click.echo(json.dumps({"token": text, "sub": sub, "lifetime": lifetime}) if as_json else text)
