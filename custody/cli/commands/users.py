"""custody users."""

import json

import click

from custody.audit.events import event_id
from custody.cli.commands import event_loop
from custody.cli.exit_codes import FINDING
from custody.db.erase import Erased, erase_user
from custody.settings import ConfigurationError, load


def erase(user_id: str, *, as_json: bool) -> int:
    """Remove a user's vault, and the user from a table of our own."""
    settings = load()
    if settings.owner_database_url is None:
        raise ConfigurationError(
            "CUSTODY_OWNER_DATABASE_URL must be set: PostgreSQL, as the owner of the schema auth"
        )
    owner = settings.dsn(settings.owner_database_url)
    erased = event_loop.run(erase_user(owner, user_id, event_id()))
    if as_json:
        click.echo(json.dumps({"vault": erased.vault, "user": erased.user}))
    else:
        click.echo(_describe(erased))
    return 0 if erased.vault or erased.user else FINDING


def _describe(erased: Erased) -> str:
    vault = "the vault was removed" if erased.vault else "there was no vault"
    user = "the user was removed" if erased.user else "auth.users was left as it is"
    return f"{vault}; {user}"
