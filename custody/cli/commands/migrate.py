"""custody migrate."""

import asyncio
import json

import click

from custody.db.engine import Dsn
from custody.db.migrate import migrate as run
from custody.settings import ConfigurationError, load


def migrate(as_json: bool) -> None:
    """Bring the database of CUSTODY_OWNER_DATABASE_URL up to date.

    A database of the service that custody replaces is migrated in place: stop that service first.
    """
    url = load().owner_database_url
    if url is None:
        raise ConfigurationError(
            "CUSTODY_OWNER_DATABASE_URL must be set: PostgreSQL, as the owner of the schema auth"
        )
    applied = asyncio.run(run(Dsn(url.get_secret_value())))
    if as_json:
        click.echo(json.dumps({"applied": applied}))
    else:
        for name in applied:
            click.echo(f"applied {name}")
        click.echo("the database is up to date")
