"""custody migrate."""

import click

from custody.cli.options import as_json


@click.command()
@as_json
def migrate(as_json: bool) -> None:
    """Bring the database of CUSTODY_OWNER_DATABASE_URL up to date.

    A database of the service that custody replaces is migrated in place: stop that service first.
    """
    from custody.cli.commands.migrate import migrate as run

    run(as_json)
