"""custody kek."""

from pathlib import Path

import click

from custody.cli.options import as_json, examples


def complete_kek_ids(_context: click.Context, _argument: click.Parameter, begun: str) -> list[str]:
    """Return the kek_ids that the database knows and that begin so, for a shell."""
    from custody.cli.commands.kek_ids import known

    return [one for one in known(data_keys=False) if one.startswith(begun)]


def complete_record_ids(
    _context: click.Context, _argument: click.Parameter, begun: str
) -> list[str]:
    """Return those, and the ids of data keys."""
    from custody.cli.commands.kek_ids import known

    return [one for one in known(data_keys=True) if one.startswith(begun)]


@click.group()
def kek() -> None:
    """Work on KEKs."""


@kek.command("list", epilog=examples("kek list", "kek list --json"))
@as_json
def list_(as_json: bool) -> None:
    """Show the KEKs that the database knows, and whether they are configured here.

    Rows are counted by CUSTODY_REWRAP_DATABASE_URL; with CUSTODY_DATABASE_URL alone they can't be
    seen.
    """
    from custody.cli.commands.kek import list_ as run

    run(as_json)


@kek.command(epilog=examples("kek retire env-v1"))
@click.argument("kek_id", shell_complete=complete_kek_ids)
@as_json
@click.pass_context
def retire(context: click.Context, kek_id: str, as_json: bool) -> None:
    """Retire a KEK for good: nothing can be wrapped under it again.

    Refused for the active KEK, while any row or data key is wrapped under it, and while a live
    daemon writes under it. What was seen is printed and kept. Uses CUSTODY_REWRAP_DATABASE_URL.
    """
    from custody.cli.commands.kek import retire as run

    context.exit(run(kek_id, as_json=as_json))


@kek.command(
    epilog=examples("kek drill", "kek drill --textfile /var/lib/custody-drill/custody_drill.prom")
)
@click.option(
    "--textfile",
    type=click.Path(path_type=Path),
    help="Write the result as metrics into this file, *.prom, for node_exporter.",
)
@as_json
@click.pass_context
def drill(context: click.Context, textfile: Path | None, as_json: bool) -> None:
    """Prove that the second root, CUSTODY_SECOND_KEK, alone opens every data key.

    No other KEK is asked, and nothing is changed. Uses CUSTODY_REWRAP_DATABASE_URL, or else
    CUSTODY_DATABASE_URL. Exit codes: 0 it opens all of them, 1 one does not open or has no wrap
    under it, or there is none, 69 its KMS or the database is down, 74 the file could not be
    written, 78 it is not configured, or can't be used as it is.
    """
    if textfile is not None and textfile.suffix != ".prom":
        raise click.UsageError("node_exporter reads *.prom alone: give the file such a name")
    from custody.cli.commands.kek_drill import run

    context.exit(run(textfile, as_json=as_json))


@kek.command(epilog=examples("kek forget dk-019a9e5c3b7a7c4e8f1d2a3b4c5d6e7f --yes"))
@click.argument("record_id", metavar="ID", shell_complete=complete_record_ids)
@click.option("--yes", is_flag=True, help="Needed: it removes what keeps an id from other keys.")
@as_json
@click.pass_context
def forget(context: click.Context, record_id: str, yes: bool, as_json: bool) -> None:
    """Remove the record of a KEK or of a data key that is not yours.

    Refused while anything carries it, and for a KEK that was retired. ID is a kek_id or dk-... Uses
    CUSTODY_OWNER_DATABASE_URL.
    """
    if not yes:
        raise click.UsageError(
            "nothing will keep this id from standing for other key material; if you mean it, add "
            "--yes"
        )
    from custody.cli.commands.kek_forget import forget as run

    context.exit(run(record_id, as_json=as_json))


@kek.command(epilog=examples("kek generate --output kek", "kek generate --output kek --raw"))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Write it into this new file, for its owner alone.",
)
@click.option("--raw", is_flag=True, help="Write 32 bytes instead of base64; needs --output.")
@as_json
@click.pass_context
def generate(context: click.Context, output: Path | None, raw: bool, as_json: bool) -> None:
    """Make a new random KEK for env: or systemd:, and print it in base64.

    A file that exists is never overwritten. What to do with the key comes on standard error.
    """
    if raw and output is None:
        raise click.UsageError("--raw needs --output FILE")
    from custody.cli.commands.kek_generate import generate as run

    context.exit(run(output, raw=raw, as_json=as_json))
