"""custody audit."""

import re
from datetime import UTC, datetime
from pathlib import Path

import click

from custody.audit.events import Action
from custody.cli.options import as_json, examples


@click.group()
def audit() -> None:
    """Work on the audit."""


@audit.command(epilog=examples("audit verify", "audit verify --checkpoint custody.checkpoint"))
@click.option(
    "--since",
    metavar="FILE|NUMBER",
    help="Begin behind this checkpoint: one that was kept, or one by its number.",
)
@click.option(
    "--checkpoint",
    "kept",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A checkpoint that was kept elsewhere: the log must still go through it. More than once.",
)
@as_json
@click.pass_context
def verify(
    context: click.Context, since: str | None, kept: tuple[Path, ...], as_json: bool
) -> None:
    """Verify rows and checkpoints, and the vaults against the last change of each.

    Finds rows that were edited, deleted, put in or moved, checkpoints that are not ours, and, with
    --checkpoint, a tail that was cut off. Changes nothing. Uses CUSTODY_AUDIT_DATABASE_URL, or else
    CUSTODY_OWNER_DATABASE_URL, and the KEKs. Exit codes: 0 all is well, 1 a finding, 69 the
    database is down, or a KMS, so that not all could be seen, 78 configuration.
    """
    from custody.cli.commands.audit_verify import run

    context.exit(run(since, kept, as_json=as_json))


@audit.command(epilog=examples("audit key"))
@as_json
@click.pass_context
def key(context: click.Context, as_json: bool) -> None:
    """Show the public keys by which others verify checkpoints.

    One for each data key, in the form of c2sp.org/signed-note. Uses the same settings as verify.
    """
    from custody.cli.commands.audit_key import run

    context.exit(run(as_json=as_json))


@audit.command(epilog=examples("audit tail --lines 50", "audit tail --user alice --follow"))
@click.option("--user", metavar="ID", help="Only this user's rows.")
@click.option(
    "--action",
    "actions",
    multiple=True,
    type=click.Choice([str(action) for action in Action]),
    metavar="ACTION",
    help="Only rows of this action. More than once.",
)
@click.option(
    "--lines",
    metavar="N",
    type=click.IntRange(0, 100_000),
    default=20,
    show_default=True,
    help="How many rows that are there.",
)
@click.option("--follow", is_flag=True, help="Go on with new rows, until Ctrl-C.")
@as_json
def tail(
    user: str | None, actions: tuple[str, ...], lines: int, *, follow: bool, as_json: bool
) -> None:
    """Show the newest rows, the oldest of them first.

    With --follow new rows are shown as they come, each once, in the order of their numbers, and
    none is left out: a row is shown when no other can come before it. Changes nothing. Uses the
    same URLs as verify, and no KEK.
    """
    from custody.cli.commands.audit_tail import run

    run(user, actions, lines, follow=follow, as_json=as_json)


def _time(text: str) -> datetime:
    """Read a time as ISO 8601 has it: of UTC, where it does not say."""
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is no time; two that are: 2026-03-02, 2026-03-02T16:00:00Z"
        ) from None


def _number_or_time(text: str) -> int | datetime:
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else _time(text)


@audit.command(
    epilog=examples(
        "audit export --output audit.jsonl", "audit export --format ocsf --since 2026-11-01"
    )
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["jsonl", "ocsf"]),
    default="jsonl",
    show_default=True,
    help="JSON Lines with all columns and the checkpoints, or events of OCSF.",
)
@click.option(
    "--since",
    type=_number_or_time,
    metavar="NUMBER|DATE",
    help="Only rows behind this number, or from this time on.",
)
@click.option(
    "--until",
    type=_time,
    metavar="DATE",
    help="Only rows from before this time.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write there, and go on behind what is there already.",
)
def export(
    format_: str, since: int | datetime | None, until: datetime | None, output: Path | None
) -> None:
    """Export all rows, in the order of their numbers, a line each.

    Up to the last one before which no other can come; the last number is said on standard error,
    and the next export goes on with --since, or by itself with the same --output. Changes nothing.
    Uses the same URLs as verify, and no KEK.
    """
    from custody.cli.commands.audit_export import run

    run(format_, since, until, output)


@audit.command(epilog=examples("audit follow --state /var/lib/custody-audit/place"))
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    required=True,
    help="Keep there how far it is; its folder must be on a disk that outlives a restart.",
)
def follow(state: Path) -> None:
    """Send each row to a file, syslog or the journal, until it is ended.

    Rows go to CUSTODY_AUDIT_EXPORT in the order of their numbers, with the checkpoints, each when
    no other can come before it. While the target or the database is down it waits, and then goes on
    where it was: no row is left out, and some may come again after a failure. Changes nothing in
    the database. Uses the same URLs as verify, and no KEK. SIGTERM ends it with 0. Exit codes: 78
    configuration.
    """
    from custody.cli.commands.audit_follow import run

    run(state)


def _past(_context: click.Context, _option: click.Parameter, at: datetime) -> datetime:
    if at > datetime.now(UTC):
        raise click.BadParameter("this time is still to come")
    return at


_before = click.option(
    "--before",
    type=_time,
    callback=_past,
    required=True,
    metavar="DATE",
    help="Only rows from before this time.",
)


@audit.command(
    epilog=examples(
        "audit prune --before 2026-09-01 --export audit.jsonl --dry-run",
        "audit prune --before 2026-09-01 --export audit.jsonl --yes",
    )
)
@_before
@click.option(
    "--export",
    "exports",
    required=True,
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="An export in JSON Lines that holds these rows; - is standard input. More than once.",
)
@click.option("--dry-run", is_flag=True, help="Prove it, say what would go, and delete nothing.")
@click.option("--yes", is_flag=True, help="Needed to delete.")
@as_json
def prune(
    before: datetime, exports: tuple[Path, ...], *, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Let go of old rows that exports hold.

    Up to the last checkpoint all of whose rows are from before that time, and only once the exports
    are proved to hold each of them. Of each user the last change stays, and every erasure, so that
    verify still holds vaults against them. What is left is signed. Broken off, run it again. Uses
    CUSTODY_OWNER_DATABASE_URL and the KEKs. Exit codes: 0 done, 1 an export lacks a row or has
    another one, or the log is damaged, 69 the database is down, or a KMS, 75 run it again, 78
    configuration.
    """
    if not (dry_run or yes):
        raise click.UsageError("this deletes rows for good; if you mean it, add --yes")
    from custody.cli.commands.audit_prune import run

    run(before, exports, dry_run=dry_run, as_json=as_json)


@audit.command(epilog=examples("audit redact --before 2026-11-01 --yes"))
@_before
@click.option("--yes", is_flag=True, help="Needed: they are gone for good.")
@as_json
def redact(before: datetime, *, yes: bool, as_json: bool) -> None:
    """Take address and user agent out of old rows.

    They are personal data. The seals of the rows hold without them; rows without a seal keep
    theirs, and the number of these is said. Broken off, run it again. Uses
    CUSTODY_OWNER_DATABASE_URL, and no KEK.
    """
    if not yes:
        raise click.UsageError(
            "this takes addresses and user agents out for good; if you mean it, add --yes"
        )
    from custody.cli.commands.audit_redact import run

    run(before, as_json=as_json)
