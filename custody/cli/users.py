"""custody users."""

import click

from custody.cli.options import as_json


@click.group()
def users() -> None:
    """Work on users."""


@users.command()
@click.argument("user_id")
@click.option("--yes", is_flag=True, help="Needed: the key is gone for good.")
@as_json
@click.pass_context
def erase(context: click.Context, user_id: str, yes: bool, as_json: bool) -> None:
    """Remove a user's vault, and the user from a table of our own.

    The audit trail stays. Uses CUSTODY_OWNER_DATABASE_URL.
    """
    if not yes:
        raise click.UsageError(
            "this destroys the user's master key for good; if you mean it, add --yes"
        )
    from custody.cli.commands.users import erase as run

    context.exit(run(user_id, as_json=as_json))
