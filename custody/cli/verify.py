"""custody verify."""

from pathlib import Path

import click

from custody.cli.options import as_json, examples

_SAMPLE = 100


@click.command(epilog=examples("verify", "verify --all --rate 200 --checkpoint custody.checkpoint"))
@click.option(
    "--sample",
    metavar="N",
    type=click.IntRange(1, 100_000),
    help=f"Open N rows of each KEK, chosen at random.  [default: {_SAMPLE}]",
)
@click.option("--all", "everything", is_flag=True, help="Open every row.")
@click.option(
    "--seed",
    metavar="SEED",
    type=click.IntRange(0, 2**32 - 1),
    help="Choose the rows that another run with this seed has chosen.",
)
@click.option(
    "--rate",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    help="Ask a KMS for so many rows a second at most; 0: no limit.",
)
@click.option(
    "--checkpoint",
    "kept",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A checkpoint that was kept beside the backup, for the audit. More than once.",
)
@click.option("--no-audit", "without_audit", is_flag=True, help="Leave the audit out.")
@as_json
@click.pass_context
def verify(
    context: click.Context,
    sample: int | None,
    seed: int | None,
    rate: int,
    kept: tuple[Path, ...],
    *,
    everything: bool,
    without_audit: bool,
    as_json: bool,
) -> None:
    """Open rows with the configured KEKs: the proof of a restore.

    Judges the seal of each row, opens its wrap, compares the key with the key check value, and
    drops it. Says what does not open and why, and which erasures on CUSTODY_ERASURE_RECORD are
    due; then the same as custody audit verify. Changes nothing, so a standby will do. Uses
    CUSTODY_AUDIT_DATABASE_URL as a member of custody_verify, or else CUSTODY_OWNER_DATABASE_URL,
    and the KEKs. Exit codes: 0 all is well, 1 a finding, 69 the database is down, or a KMS, so
    that not all could be seen, 75 Ctrl-C, 78 configuration.
    """
    if everything and (sample is not None or seed is not None):
        raise click.UsageError("--all opens every row: no --sample or --seed goes with it")
    if without_audit and kept:
        raise click.UsageError("--checkpoint is for the audit: no --no-audit goes with it")
    from custody.cli.commands.verify import run

    chosen = None if everything else sample or _SAMPLE
    checkpoints = None if without_audit else kept
    context.exit(run(chosen, seed, rate=rate, kept=checkpoints, as_json=as_json))
