"""custody rewrap."""

from typing import Any

import click

from custody.cli.options import as_json, examples
from custody.rewrap.options import Options, Verify

# The rows of a batch are locked together while they are stored.
_MAX_BATCH = 5_000


@click.group()
def rewrap() -> None:
    """Bring rows to the active KEK."""


@rewrap.command(
    "run", epilog=examples("rewrap run --dry-run", "rewrap run --rate 500", "rewrap run --deep")
)
@click.option("--dry-run", is_flag=True, help="Count, prove the active KEK, and change nothing.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Rows under the active KEK too: for a KMS that keeps its kek_id when its key is rotated.",
)
@click.option(
    "--deep",
    is_flag=True,
    help="Make a new data key, and bring every row to it: after a KEK was compromised.",
)
@click.option(
    "--rate",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="Rows a second at most; 0 is no limit.",
)
@click.option(
    "--batch",
    metavar="N",
    type=click.IntRange(1, _MAX_BATCH),
    default=Options().batch,
    show_default=True,
    help="Rows in one step.",
)
@click.option(
    "--verify",
    # Their values: of an enumeration click would take the names.
    type=click.Choice([verify.value for verify in Verify]),
    help="Which new wraps are unwrapped again before the old ones go.  [default: sample; all of "
    "rows that are sealed for the first time, where the KEK is in memory]",
)
@click.option(
    "--quarantined", is_flag=True, help="Try rows again that were set aside in earlier runs."
)
@as_json
@click.pass_context
def run(context: click.Context, /, *, as_json: bool, dry_run: bool, **chosen: Any) -> None:
    """Re-wrap every row that is not under the active KEK, while users keep working.

    Data keys come first. With CUSTODY_LEGACY_ROWS=accept, rows that are not sealed yet are brought
    over, too. Any number of these may run at once, beside the daemon's own worker: they share the
    work. Uses CUSTODY_REWRAP_DATABASE_URL. SIGTERM ends it cleanly. Exit codes: 0 done, 1 rows were
    set aside or left, or a data key can't be opened, 69 the database or a KMS is down, 75 not
    finished: run it again.
    """
    from custody.cli.commands.rewrap import run as run_

    verify = None if chosen["verify"] is None else Verify(chosen["verify"])
    options = Options(**chosen | {"verify": verify})
    context.exit(run_(options, as_json=as_json, dry_run=dry_run))


@rewrap.command(epilog=examples("rewrap status", "rewrap status --json"))
@as_json
def status(as_json: bool) -> None:
    """Show the latest runs, how fast they go, and how many rows each KEK has.

    Uses CUSTODY_REWRAP_DATABASE_URL.
    """
    from custody.cli.commands.rewrap import status as run_

    run_(as_json)
