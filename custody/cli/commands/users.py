"""custody users."""

import json

import click

from custody.audit.events import event_id
from custody.cli.commands import event_loop
from custody.cli.commands.shown import note
from custody.cli.exit_codes import FINDING
from custody.db.dsn import Dsn
from custody.db.erase import Erased, erase_user
from custody.db.erasure_record import SETTING, Erasure
from custody.settings import ConfigurationError, Settings, load


def erase(user_id: str, *, as_json: bool) -> int:
    """Remove a user's vault, and the user from a table of our own."""
    settings = load()
    erasure = Erasure(event_id(), user_id)
    erased = event_loop.run(erase_user(owner_of(settings), erasure, settings.erasure_record))
    if as_json:
        click.echo(json.dumps({"vault": erased.vault, "user": erased.user}))
    else:
        click.echo(_describe(erased))
    if not (erased.vault or erased.user):
        return FINDING
    if settings.erasure_record is None:
        note(
            f"{SETTING} is not set: the erasure is on record in this database alone, and a backup "
            "from before it brings the key back"
        )
    return 0


def owner_of(settings: Settings) -> Dsn:
    """Return the URL of the owner.

    Raises:
        ConfigurationError: there is none.
    """
    if settings.owner_database_url is None:
        raise ConfigurationError(
            "CUSTODY_OWNER_DATABASE_URL must be set: PostgreSQL, as the owner of the schema auth"
        )
    return settings.dsn(settings.owner_database_url)


def _describe(erased: Erased) -> str:
    vault = "the vault was removed" if erased.vault else "there was no vault"
    user = "the user was removed" if erased.user else "auth.users was left as it is"
    return f"{vault}; {user}"
