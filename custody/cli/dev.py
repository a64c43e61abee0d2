"""custody dev: a working vault from nothing."""

import asyncio
import os
import shlex
import sys
from pathlib import Path

import click

from custody import app
from custody.auth.development import ISSUER, DevelopmentIssuer
from custody.db.embedded import EmbeddedPostgres
from custody.db.engine import Dsn
from custody.db.migrate import migrate
from custody.http.routes import BASE_PATH
from custody.ops.logging import configure
from custody.ops.process import harden
from custody.settings import Settings, load

DEFAULT_FOLDER = Path(".custody-dev")
_TOKEN_LIFETIME_SECONDS = 24 * 60 * 60
_SUBJECT = "alice"


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Folder that keeps the database and the issuer's key between runs.",
)
def dev(data: Path) -> None:
    """Run the daemon for development, with nothing to configure.

    Starts a PostgreSQL of its own, migrates it, and makes a token issuer. Settings given as
    variables are honoured. Never for real users' keys.
    """
    data.mkdir(parents=True, exist_ok=True)
    issuer = DevelopmentIssuer.create(data)
    environ = {
        "CUSTODY_ENV": "development",
        "CUSTODY_LOG_FORMAT": "text",
        "CUSTODY_JWT_ISSUER": ISSUER,
        "CUSTODY_JWKS_FILE": str(data / "jwks.json"),
    } | dict(os.environ)
    first = load(environ)
    configure(first.log_level, first.log_format)
    harden()
    with EmbeddedPostgres(data) as postgres:
        asyncio.run(migrate(Dsn(postgres.url("custody_owner"))))
        postgres.grant_logins()
        environ["CUSTODY_DATABASE_URL"] = postgres.url("custody_app")
        settings = load(environ)

        async def show(addresses: app.Addresses) -> None:
            token = issuer.token(
                _SUBJECT, audience=settings.jwt_audience, lifetime=_TOKEN_LIFETIME_SECONDS
            )
            click.echo(_banner(addresses, postgres, settings, data, token))

        asyncio.run(app.serve(settings, environ, show))


def _banner(
    addresses: app.Addresses,
    postgres: EmbeddedPostgres,
    settings: Settings,
    data: Path,
    token: str,
) -> str:
    return f"""
custody is running, for development only.

  vault   {addresses.vault}{BASE_PATH}
  admin   {addresses.admin}/readyz
  KEK     {settings.kek}
  data    {postgres.folder}

A token of the user {_SUBJECT}, for a day:

{token}

Paste this to get {_SUBJECT}'s master key:

curl -X POST -H 'Authorization: Bearer {token}' {addresses.vault}{BASE_PATH}/init

Another user's token: {shlex.quote(sys.argv[0])} token --sub NAME{_data_option(data)}
Ctrl-C stops all of it; the data stays.
"""


def _data_option(data: Path) -> str:
    return "" if data == DEFAULT_FOLDER else f" --data {shlex.quote(str(data))}"
