"""custody rewrap."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.cli.commands import event_loop
from custody.cli.commands.rewrap_progress import Progress, describe, progress
from custody.cli.commands.rewrap_role import rewrap_dsn, rewrap_engine
from custody.cli.commands.shown import note, printable
from custody.cli.commands.startup import prepare
from custody.cli.exit_codes import FINDING
from custody.db.one_database import name_of
from custody.keks.keks import loaded_keks
from custody.keks.records import RowCount, count_rows
from custody.keks.registry import unreadable as unreadable_rows
from custody.keks.watch import KekWatch
from custody.rewrap import runs
from custody.rewrap.options import Options
from custody.rewrap.runs import Run, State
from custody.rewrap.target import Blocked, Target
from custody.rewrap.worker import RewrapRun
from custody.settings import Settings
from kek_backends.errors import KekError
from kek_backends.keyring import Keyring

_POOL_SIZE = 4
_SHOWN_RUNS = 10


def run(options: Options, *, as_json: bool, dry_run: bool) -> int:
    """Re-wrap every row that is not under the active KEK, while users keep working."""
    settings = prepare()
    if dry_run:
        event_loop.run(_foresee(settings, options, as_json=as_json))
        return 0
    done, unreadable, database = event_loop.run(_run(settings, options))
    if as_json:
        click.echo(json.dumps(describe(done) | {"unreadable": list(unreadable)}))
    else:
        click.echo(
            f"run {done.id} to {done.target}: {done.done} re-wrapped, {done.moved} changed by "
            f"their users meanwhile, {done.failed} set aside; in {database}"
        )
    for problem in unreadable.values():
        note(problem)
    if done.failed:
        note(
            f"{done.failed} rows were set aside: their wraps do not open. Restore them, or let "
            "their users rotate; to try them again: custody rewrap run --quarantined"
        )
    return 0 if done.state is State.DONE else FINDING


def status(as_json: bool) -> None:
    """Show the latest runs, how fast they go, and how many rows each KEK has.

    Uses CUSTODY_REWRAP_DATABASE_URL.
    """
    shown, counted = event_loop.run(_status(prepare()))
    if as_json:
        rows = {kek_id: dataclasses.asdict(count) for kek_id, count in counted.items()}
        click.echo(json.dumps({"runs": [describe(one) for one in shown], "rows": rows}, indent=2))
        return
    for one in shown:
        click.echo(run_line(one))
    if shown and shown[0].state is State.STOPPED:
        click.echo("nobody works on it; what is left is done by: custody rewrap run")
    for kek_id, count in sorted(counted.items()):
        click.echo(
            f"{printable(kek_id)}: {count.wraps} rows, {count.format_1} of format 1, "
            f"{count.quarantined} set aside"
        )
    if not shown and not counted:
        click.echo("no run yet, and no row")


def run_line(run: Run) -> str:
    """Show a run in one line."""
    said = describe(run)
    pace = "" if said["rows_a_second"] is None else f", {said['rows_a_second']} rows/s"
    left = "" if said["seconds_left"] is None else f", {said['seconds_left']} s left"
    return printable(
        f"run {run.id} {run.state}: {run.done + run.failed} of {run.total} to {run.target}, "
        f"{run.moved} changed by their users, {run.failed} set aside{pace}{left}; "
        f"began {said['started_at']} by {run.started_by}"
    )


async def _foresee(settings: Settings, options: Options, *, as_json: bool) -> None:
    async with _prepared(settings) as (engine, keyring):
        target = Target(engine, keyring)
        kek_id = await target.foresee()
        stale = await runs.count_stale(engine, kek_id, everything=options.everything)
        problems = list(_unreadable(keyring, stale.sources).values())
        try:
            await target.check_instances(kek_id)
        except Blocked as blocked:
            problems.append(str(blocked))
        database = await name_of(engine)
    if as_json:
        click.echo(json.dumps({"target": kek_id, **dataclasses.asdict(stale)}))
    else:
        sources = f", from {', '.join(stale.sources)}" if stale.sources else ""
        click.echo(f"{stale.total} rows to bring to {kek_id}{sources}; in {database}")
    for problem in problems:
        note(problem)


async def _run(settings: Settings, options: Options) -> tuple[Run, dict[str, str], str]:
    stopping = _Stopping()
    async with _prepared(settings) as (engine, keyring), KekWatch(keyring):
        # Before: a run that was done is not to fail for a name.
        database = await name_of(engine)
        with progress() as shown:
            rewrapper = RewrapRun(engine, keyring, options, shown.advance)
            stopping.hand_over(rewrapper)
            done = await _shown(rewrapper, shown)
        unreadable = _unreadable(keyring, await rewrapper.unreadable(done))
        return done, unreadable, database


async def _shown(rewrapper: RewrapRun, shown: Progress) -> Run:
    showing = asyncio.create_task(shown.keep_showing())
    try:
        return await rewrapper.run()
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing


class _Stopping:
    """What SIGTERM and SIGINT do: end what is still being prepared, or the run cleanly."""

    def __init__(self) -> None:
        self._rewrapper: RewrapRun | None = None
        self._stopped = False
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)

    def hand_over(self, rewrapper: RewrapRun) -> None:
        """Let the run see to it from now on."""
        self._rewrapper = rewrapper
        if self._stopped:
            rewrapper.stop()

    def _stop(self) -> None:
        self._stopped = True
        if self._rewrapper is not None:
            self._rewrapper.stop()


def _unreadable(keyring: Keyring, kek_ids: Sequence[str]) -> dict[str, str]:
    """Return which of them can't be unwrapped here, and the cure of each."""
    return {
        kek_id: problem for kek_id in kek_ids for problem in unreadable_rows(keyring, (kek_id,))
    }


async def _status(settings: Settings) -> tuple[tuple[Run, ...], dict[str, RowCount]]:
    async with rewrap_engine(settings) as engine:
        return await runs.latest(engine, _SHOWN_RUNS), await count_rows(engine)


@asynccontextmanager
async def _prepared(settings: Settings) -> AsyncIterator[tuple[AsyncEngine, Keyring]]:
    """Load the KEKs, ask each KMS for its key, and connect."""
    rewrap_dsn(settings)  # before a KMS is asked
    async with loaded_keks(settings, os.environ) as keyring:
        for backend in keyring:
            # One that is down says so when a row needs it.
            with contextlib.suppress(KekError):
                await backend.refresh()
        async with rewrap_engine(settings, pool_size=_POOL_SIZE) as engine:
            yield engine, keyring
