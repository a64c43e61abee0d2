"""custody kek forget."""

import json

import click

from custody.cli.commands import event_loop
from custody.cli.commands.shown import note
from custody.cli.exit_codes import FINDING
from custody.db.engine import Dsn
from custody.db.forget import Forgotten, forget_kek
from custody.settings import ConfigurationError, load

_MESSAGES = {
    Forgotten.FORGOTTEN: "the record of {0} was removed",
    Forgotten.UNKNOWN: "nothing is recorded of {0}; see: custody kek list",
    Forgotten.IN_USE: "{0} was not removed: rows carry it",
    Forgotten.DATA_KEYS: "{0} was not removed: data keys are wrapped under it",
    Forgotten.WRITTEN: "{0} was not removed: a live daemon may write under it; stop all daemons, "
    "and try again in a minute",
    Forgotten.RETIRED: "{0} was not removed: it is retired, and that is for good",
}


def forget(record_id: str, *, as_json: bool) -> int:
    """Remove the record of a KEK or of a data key that nothing carries."""
    url = load().owner_database_url
    if url is None:
        raise ConfigurationError(
            "CUSTODY_OWNER_DATABASE_URL must be set: PostgreSQL, as the owner of the schema auth"
        )
    outcome = event_loop.run(forget_kek(Dsn(url.get_secret_value()), record_id))
    message = _MESSAGES[outcome].format(record_id)
    done = outcome is Forgotten.FORGOTTEN
    if as_json:
        click.echo(json.dumps({"id": record_id, "outcome": outcome}))
    elif done:
        click.echo(message)
    if done:
        return 0
    note(message)
    return FINDING
