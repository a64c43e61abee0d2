"""custody migrate."""

import click

from custody.cli.options import as_json, examples


@click.command(epilog=examples("migrate"))
@as_json
@click.pass_context
def migrate(context: click.Context, as_json: bool) -> None:
    """Bring the database of CUSTODY_OWNER_DATABASE_URL up to date.

    A database of the service that custody replaces is migrated in place: stop that service first.
    In the end it is looked at as the daemon does before it serves.
    """
    from custody.cli.commands.migrate import migrate as run

    context.exit(run(as_json))
