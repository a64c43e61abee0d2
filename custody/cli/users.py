"""custody users."""

import click

from custody.cli.options import as_json, examples


@click.group()
def users() -> None:
    """Work on users."""


@users.command(epilog=examples("users erase alice --yes"))
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


@users.command(
    "replay-erasures",
    epilog=examples("users replay-erasures --dry-run", "users replay-erasures --yes"),
)
@click.option("--dry-run", "dry", is_flag=True, help="Count what is due, and change nothing.")
@click.option("--yes", is_flag=True, help="Needed: the keys are gone for good.")
@as_json
@click.pass_context
def replay_erasures(context: click.Context, dry: bool, yes: bool, as_json: bool) -> None:
    """Erase again who was erased, after a restore.

    Each erasure that is in the file of CUSTODY_ERASURE_RECORD, and of which this
    database has no audit row, is made, with that row. Killed at any moment, it is
    run again. Uses CUSTODY_OWNER_DATABASE_URL.
    """
    if not (yes or dry):
        raise click.UsageError(
            "this destroys the master keys of who was erased, for good; look with --dry-run, and "
            "if you mean it, add --yes"
        )
    from custody.cli.commands.replay_erasures import run

    context.exit(run(dry=dry, as_json=as_json))
