"""custody audit verify."""

import json
from pathlib import Path
from typing import Any

import click

from custody.audit.checkpoint import Checkpoint, MalformedCheckpoint
from custody.audit.findings import Finding, Report
from custody.audit.history import Known
from custody.audit.note import MOST, MalformedNote, parse
from custody.audit.reading import LOWEST, Reader
from custody.audit.verify import NoSuchCheckpoint, Verification
from custody.cli.commands import event_loop
from custody.cli.commands.audit_role import audit_reader
from custody.cli.commands.progress import counted
from custody.cli.commands.shown import note, printable
from custody.cli.commands.startup import prepare
from custody.cli.exit_codes import FINDING, UNAVAILABLE
from custody.settings import Settings
from custody.vault.audited import compare


def run(since: str | None, kept: tuple[Path, ...], *, as_json: bool) -> int:
    """Verify the audit."""
    known = [read_checkpoint(path) for path in kept]
    number = None
    if since is not None and since.isascii() and since.isdigit():
        number = int(since)
    elif since is not None:
        known.insert(0, read_checkpoint(Path(since)))
    report = event_loop.run(_verify(prepare(), number, known, begins=since is not None))
    click.echo(json.dumps(as_object(report)) if as_json else "\n".join(lines_of(report)))
    if report.counts:
        return FINDING
    return UNAVAILABLE if report.unseen else 0


async def _verify(
    settings: Settings, number: int | None, known: list[Known], *, begins: bool
) -> Report:
    async with audit_reader(settings) as (reader, ring):
        last = await reader.find()
        since = await _since(reader, number, known) if begins else None
        first = since or next(iter(await reader.checkpoints(LOWEST)), None)
        # What is before the first one was pruned; of its own rows some may have been.
        gone = 0 if first is None or (since is None and first["number"] == 1) else first["size"]
        total = 0 if last is None else last["size"] - gone
        with counted("verified", max(0, total)) as advance:
            verification = Verification(
                reader, ring, compare, advance=advance, wait=_tell_of_waiting
            )
            try:
                return await verification.run(since, [one for one in known if not one.is_there])
            except NoSuchCheckpoint:
                raise click.UsageError(
                    "the checkpoint of --since is not good itself; verify without --since"
                ) from None


async def _since(reader: Reader, number: int | None, known: list[Known]) -> Any:
    """Return the checkpoint to begin behind; None where the log has another one in its place."""
    if number is not None:
        found = await reader.find(number=number)
        if found is None:
            raise click.UsageError(f"there is no checkpoint {number}, or no more after a prune")
        return found
    found = await reader.find(size=known[0].size)
    if found is None or _parse(found["note"]) != (known[0].size, known[0].root):
        return None
    known[0].is_there = True
    return found


def read_checkpoint(path: Path) -> Known:
    """Read a checkpoint that was kept in a file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            # psql ends what it prints by a line feed of its own.
            said = _parse(file.read(MOST + 1).rstrip("\n") + "\n")
    except (OSError, UnicodeError) as error:
        raise click.UsageError(f"{path} can't be read: {type(error).__name__}") from None
    if said is None:
        raise click.UsageError(f"{path} is no checkpoint")
    return Known(*said)


def _parse(text: str) -> tuple[int, bytes] | None:
    try:
        said = Checkpoint.parse(parse(text).text)
    except (MalformedNote, MalformedCheckpoint):
        return None
    return said.size, said.root


def _tell_of_waiting() -> None:
    note("the last rows look old and are under no checkpoint: waiting up to two minutes for one")


def lines_of(report: Report) -> list[str]:
    """Return what a verification has found, in lines."""
    lines = [printable(_line(finding)) for finding in report.findings]
    more = sum(report.counts.values()) - len(report.findings)
    if more:
        lines.append(f"and {more} more like these")
    lines += [f"note: {one}" for one in report.notices]
    lines += [printable(f"not seen: {one}") for one in report.unseen]
    found = sum(report.counts.values())
    verdict = f"{found} findings" if found else "no finding"
    if report.unseen and not found:
        verdict = "no finding, but not all could be seen"
    read = f"{report.rows} rows, {report.checkpoints} checkpoints, {report.vaults} vaults"
    return [*lines, f"{read}: {verdict}"]


def _line(finding: Finding) -> str:
    where = []
    if finding.rows is not None:
        first, last = finding.rows
        where.append(f"row {first}" if first == last else f"rows {first} to {last}")
    if finding.row_id is not None:
        where.append(f"id {finding.row_id}")
    if finding.user_id is not None:
        where.append(f"user {finding.user_id}")
    if finding.checkpoint is not None:
        where.append(f"checkpoint {finding.checkpoint}")
    place = ", ".join(where)
    return f"{place}: {finding.message}" if place else finding.message


def as_object(report: Report) -> dict[str, object]:
    """Return it for JSON."""
    return {
        "good": report.is_good,
        "rows": report.rows,
        "checkpoints": report.checkpoints,
        "vaults": report.vaults,
        "size": report.size,
        "counts": dict(report.counts),
        "findings": [
            {
                "kind": one.kind,
                "rows": one.rows,
                "checkpoint": one.checkpoint,
                "id": one.row_id,
                "user": one.user_id,
                "message": one.message,
            }
            for one in report.findings
        ],
        "notices": report.notices,
        "unseen": report.unseen,
    }
