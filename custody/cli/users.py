"""custody users."""

import asyncio
import json

import click

from custody.cli.exit_codes import FINDING
from custody.db.engine import Dsn
from custody.db.erase import Erased, erase_user
from custody.settings import ConfigurationError, load


@click.group()
def users() -> None:
    """Work on users."""


@users.command()
@click.argument("user_id")
@click.option("--yes", is_flag=True, help="Needed: the key is gone for good.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def erase(context: click.Context, user_id: str, yes: bool, as_json: bool) -> None:
    """Remove a user's vault, and the user from a table of our own.

    The audit trail stays. Uses CUSTODY_OWNER_DATABASE_URL.
    """
    if not yes:
        raise click.UsageError(
            "this destroys the user's master key for good; if you mean it, add --yes"
        )
    url = load().owner_database_url
    if url is None:
        raise ConfigurationError(
            "CUSTODY_OWNER_DATABASE_URL must be set: PostgreSQL, as the owner of the schema auth"
        )
    erased = asyncio.run(erase_user(Dsn(url.get_secret_value()), user_id))
    if as_json:
        click.echo(json.dumps({"vault": erased.vault, "user": erased.user}))
    else:
        click.echo(_describe(erased))
    if not (erased.vault or erased.user):
        context.exit(FINDING)


def _describe(erased: Erased) -> str:
    vault = "the vault was removed" if erased.vault else "there was no vault"
    user = "the user was removed" if erased.user else "auth.users was left as it is"
    return f"{vault}; {user}"
