"""custody verify."""

import asyncio
import contextlib
import json
import secrets
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import click

from custody.audit.findings import Report as AuditReport
from custody.audit.history import Known
from custody.audit.verify import Verification as AuditVerification
from custody.cli.commands import audit_verify, event_loop
from custody.cli.commands.audit_role import AllReaders, all_readers
from custody.cli.commands.progress import counted
from custody.cli.commands.shown import note, printable
from custody.cli.commands.startup import prepare
from custody.cli.exit_codes import FINDING, UNAVAILABLE, UNFINISHED
from custody.db.erasure_record import Record, read_record
from custody.db.erasures import CURE, find_due
from custody.db.scope import transaction
from custody.settings import Settings
from custody.vault.audited import compare
from custody.verify.report import Fault, Finding, Kind, Report
from custody.verify.verification import Verification
from kek_backends.errors import KekError

T = TypeVar("T")

_WITHOUT_WRAP = "without a wrap by the server"
# To ask for 400,000 erasures takes two seconds.
_DUE_SECONDS = 60.0
_DUE = "was erased, and this database is from before that"


def run(
    sample: int | None,
    seed: int | None,
    *,
    rate: int,
    kept: Sequence[Path] | None,
    as_json: bool,
) -> int:
    """Open rows, and verify the audit.

    Args:
        sample: how many rows of each kek_id; None: all of them.
        seed: chooses them; None: any.
        rate: calls a second that a KMS gets at most; 0: no limit.
        kept: checkpoints that were kept elsewhere; None: the audit is left out.
        as_json: print JSON.
    """
    known = None if kept is None else [audit_verify.read_checkpoint(path) for path in kept]
    settings = prepare()
    if seed is None:
        seed = secrets.randbits(32)
    rows, audited = event_loop.run(_verify(settings, sample, seed, rate=rate, known=known))
    stopped = rows.failure is None and (
        not rows.is_finished or (known is not None and audited is None)
    )
    said = _as_object(rows, audited, finished=not stopped)
    click.echo(json.dumps(said) if as_json else "\n".join(_lines(rows, audited)))
    if stopped:
        note("stopped before the end, run it again: what is not shown was not looked at")
        return UNFINISHED
    if rows.findings or (audited is not None and audited.counts):
        return FINDING
    return 0 if said["good"] else UNAVAILABLE


async def _verify(
    settings: Settings, sample: int | None, seed: int, *, rate: int, known: list[Known] | None
) -> tuple[Report, AuditReport | None]:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # First: hours later nobody wants to hear that the file is missing, or in use at this moment.
    erasures = None if settings.erasure_record is None else read_record(settings.erasure_record)
    async with all_readers(settings) as readers:
        await _unless(stop, _open_data_keys(readers))
        with ExitStack() as stack:
            shown = _Shown(stack)
            verification = Verification(
                readers.engine,
                readers.keyring,
                readers.ring,
                stop,
                legacy=settings.accepts_legacy_rows,
                rate=rate,
                begin=shown.begin,
                advance=shown.advance,
            )
            rows = await verification.run(sample, seed)
        if erasures is not None and rows.failure is None:
            await _find_due(readers, erasures, rows)
        if known is None or rows.failure is not None:
            return rows, None
        return rows, await _unless(stop, _verify_audit(readers, known))


async def _find_due(readers: AllReaders, record: Record, report: Report) -> None:
    """Hold the database against the erasure record."""
    async with transaction(readers.engine, _DUE_SECONDS) as connection:
        due = await find_due(connection, record.erasures)
    for one in due:
        report.add(Fault(Kind.ERASURE, "", f"{_DUE}; {CURE}"), one.user_id)


async def _open_data_keys(readers: AllReaders) -> None:
    for backend in readers.keyring.keks:
        # One that is down says so when a row needs it.
        with contextlib.suppress(KekError):
            await backend.refresh()
    await readers.ring.load()


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Do it, unless it is stopped: then return None."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        return working.result()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    return None


class _Shown:
    """A bar, once it is known how many rows there are.

    Args:
        stack: ends it.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.advance_bar: Callable[[int], None] = lambda _count: None

    def begin(self, total: int) -> None:
        """Show it."""
        self.advance_bar = self._stack.enter_context(counted("rows", total))

    def advance(self, count: int) -> None:
        """Move it on."""
        self.advance_bar(count)


async def _verify_audit(readers: AllReaders, known: list[Known]) -> AuditReport:
    last = await readers.audit.find()
    with counted("audit", 0 if last is None else last["size"]) as advance:
        verification = AuditVerification(
            readers.audit, readers.ring, compare, advance=advance, at_rest=True
        )
        return await verification.run(known=known)


def _lines(rows: Report, audited: AuditReport | None) -> list[str]:
    lines = [printable(line) for finding in rows.findings for line in _finding(finding)]
    lines += [f"note: {one}" for one in rows.notices]
    lines += [printable(f"not seen: {one}") for one in _unseen(rows)]
    for kek_id, seen in rows.keks.items():
        name = _WITHOUT_WRAP if kek_id is None else printable(kek_id)
        good = "as they were sealed" if kek_id is None else "open"
        lines.append(
            f"{name}: {seen.rows} rows, {seen.looked_at} looked at, {seen.good} of them {good}"
        )
    if audited is not None:
        lines += ["audit:", *(f"  {line}" for line in audit_verify.lines_of(audited))]
    chosen = "" if rows.seed is None else f", chosen by --seed {rows.seed}"
    return [
        *lines,
        f"{rows.looked_at} of {rows.rows} rows looked at{chosen}: {_verdict(rows, audited)}",
    ]


def _finding(finding: Finding) -> Iterator[str]:
    if not finding.kind.is_of_row:
        yield f"{finding.message}: {finding.count} of the rows looked at"
        return
    for user in finding.users:
        yield f"user {user}: {finding.message}"
    if more := finding.count - len(finding.users):
        yield f"and {more} more like these"


def _unseen(rows: Report) -> list[str]:
    waiting = [f"{one.count} rows: {one.message}" for one in rows.waiting]
    return waiting if rows.failure is None else [*waiting, rows.failure]


def _verdict(rows: Report, audited: AuditReport | None) -> str:
    if rows.findings:
        due = rows.counts.get(Kind.ERASURE, 0)
        shut = sum(rows.counts.values()) - due
        verdicts = [f"{shut} do not open"] if shut else []
        verdicts += [f"{due} erasures are due"] if due else []
        verdict = " and ".join(verdicts)
    elif _unseen(rows) or not rows.is_finished:
        verdict = f"{rows.good} open, but not all could be seen"
    else:
        verdict = "all of them open"
    if audited is None or audited.is_good:
        return verdict
    audit = "is not as it was written" if audited.counts else "could not all be seen"
    return f"{verdict}; but the audit {audit}"


def _as_object(rows: Report, audited: AuditReport | None, *, finished: bool) -> dict[str, object]:
    unseen = _unseen(rows)
    good = finished and not rows.findings and not unseen
    return {
        "good": good and (audited is None or audited.is_good),
        "finished": finished,
        "seed": rows.seed,
        "rows": rows.rows,
        "looked_at": rows.looked_at,
        "open": rows.good,
        "keks": [
            {"kek_id": kek_id, "rows": one.rows, "looked_at": one.looked_at, "open": one.good}
            for kek_id, one in rows.keks.items()
        ],
        "counts": rows.counts,
        "findings": [
            {
                "kind": one.kind,
                "about": one.about or None,
                "rows": one.count,
                "users": one.users,
                "message": one.message,
            }
            for one in rows.findings
        ],
        "notices": rows.notices,
        "unseen": unseen,
        "audit": None if audited is None else audit_verify.as_object(audited),
    }
