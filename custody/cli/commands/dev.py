"""custody dev: a working vault from nothing."""

import asyncio
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import structlog
import uvloop

from custody import app
from custody.cli.options import DATA_FOLDER
from custody.db.engine import Dsn, open_engine
from custody.db.migrate import migrate
from custody.development.issuer import ISSUER, DevelopmentIssuer
from custody.development.page import FirstPage
from custody.development.postgres import EmbeddedPostgres
from custody.http.routes import BASE_PATH
from custody.loopback import is_loopback
from custody.ops.logging import configure
from custody.ops.process import harden
from custody.settings import Settings, load
from custody.sockets.addresses import ListenError

_TOKEN_LIFETIME_SECONDS = 24 * 60 * 60
_SUBJECT = "alice"
_PAGE = """
See it in a browser, the first five minutes:

  {}/
"""
# Decided here and nowhere else: a shell that is set up for a real daemon must neither break the
# printed tokens nor lead to its database.
_OWN_VARIABLES = {
    f"CUSTODY_{name}{suffix}"
    for name in (
        "DATABASE_URL",
        "AUDIT_DATABASE_URL",
        "OWNER_DATABASE_URL",
        "REWRAP_DATABASE_URL",
        "JWT_ISSUER",
        "JWKS_FILE",
        "JWKS_URL",
    )
    for suffix in ("", "_FILE")
}

# Begin again (RESET) is what one wants to see, and to have, in development.
_DEFAULTS = {"CUSTODY_ENV": "development", "CUSTODY_LOG_FORMAT": "text", "CUSTODY_RESET": "on"}
_FREE_PORTS = {"CUSTODY_LISTEN": "127.0.0.1:0", "CUSTODY_ADMIN_LISTEN": "127.0.0.1:0"}

log = structlog.get_logger()


def dev(data: Path, *, free_ports: bool) -> None:
    """Run the daemon for development, with nothing to configure.

    Starts a PostgreSQL of its own, migrates it, makes a token issuer, and serves a page to see
    it all in a browser. Other settings given as variables are honoured. Never for real users'
    keys.
    """
    issuer = DevelopmentIssuer.create(data)
    replaced = sorted(_OWN_VARIABLES & os.environ.keys())
    environ = _DEFAULTS | {
        name: value for name, value in os.environ.items() if name not in replaced
    }
    if free_ports:
        environ |= _FREE_PORTS
    environ["CUSTODY_JWT_ISSUER"] = ISSUER
    environ["CUSTODY_JWKS_FILE"] = str(data / "jwks.json")
    first = load(environ)
    configure(first.log_level, first.log_format)
    harden()
    if replaced:
        log.warning("ignored_variables", names=replaced, reason="custody dev uses its own")
    with EmbeddedPostgres(data) as postgres:
        asyncio.run(migrate(Dsn(postgres.url("custody_owner"))))
        postgres.grant_logins()
        environ["CUSTODY_DATABASE_URL"] = postgres.url("custody_app")
        settings = load(environ)

        def show(addresses: app.Addresses) -> None:
            token = issuer.token(
                _SUBJECT, audience=settings.jwt_audience, lifetime=_TOKEN_LIFETIME_SECONDS
            )
            click.echo(_banner(addresses, postgres, settings, data, token))

        try:
            uvloop.run(_serve(settings, environ, issuer, show))
        except ListenError as error:
            raise ListenError(f"{error}, or take free ports: --free-ports") from None


async def _serve(
    settings: Settings,
    environ: Mapping[str, str],
    issuer: DevelopmentIssuer,
    show: Callable[[app.Addresses], None],
) -> None:
    if not _has_page(settings.listen):
        await app.serve(settings, environ, started=show)
        return
    dsn = Dsn(environ["CUSTODY_DATABASE_URL"])
    async with open_engine(dsn, pool_size=1) as engine:
        page = FirstPage(issuer, settings.jwt_audience, engine)
        await app.serve(settings, environ, started=show, more=page.table())


def _has_page(listen: str) -> bool:
    """Say whether no network sees the vault: its page gives tokens to whoever opens it."""
    return is_loopback(listen.rpartition(":")[0].strip("[]"))


def _banner(
    addresses: app.Addresses,
    postgres: EmbeddedPostgres,
    settings: Settings,
    data: Path,
    token: str,
) -> str:
    curl = f"{_curl(addresses, settings)} -X POST -H 'Authorization: Bearer {token}'"
    page = _PAGE.format(addresses.vault) if _has_page(settings.listen) else ""
    return f"""
custody is running, for development only.
{page}
  vault   {addresses.vault}{BASE_PATH}
  admin   {addresses.admin}/readyz
  KEK     {settings.kek}
  data    {postgres.folder}

A token of the user {_SUBJECT}, for a day:

{token}

Paste this to get {_SUBJECT}'s master key:

{curl} {_origin(addresses)}{BASE_PATH}/init

Another user's token: {_command()} token --sub NAME{_data_option(data)}
Ctrl-C stops all of it; the data stays.
"""


def _curl(addresses: app.Addresses, settings: Settings) -> str:
    if addresses.vault.startswith("unix:"):
        return f"curl --unix-socket {shlex.quote(addresses.vault.removeprefix('unix:'))}"
    if settings.tls_cert is not None:
        return f"curl --cacert {shlex.quote(str(settings.tls_cert.resolve()))}"
    return "curl"


def _origin(addresses: app.Addresses) -> str:
    return "http://localhost" if addresses.vault.startswith("unix:") else addresses.vault


def _command() -> str:
    """Return the words by which a shell starts this program again."""
    if Path(sys.argv[0]).name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m custody"
    return shlex.quote(sys.argv[0])


def _data_option(data: Path) -> str:
    return "" if data == DATA_FOLDER else f" --data {shlex.quote(str(data))}"
