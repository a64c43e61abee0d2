"""custody doctor."""

import click

from custody.cli.options import as_json


@click.command()
@as_json
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Examine what is configured: settings, KEKs, database, roles, the issuer's keys.

    Changes nothing, and says what it could not see.
    """
    from custody.cli.commands.doctor import doctor as run

    context.exit(run(as_json))
