"""custody rewrap."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.cli.commands import event_loop
from custody.cli.commands.rewrap_progress import Progress, describe, progress
from custody.cli.commands.rewrap_role import rewrap_dsn, rewrap_engine
from custody.cli.commands.shown import note, printable
from custody.cli.commands.startup import prepare
from custody.cli.exit_codes import FINDING
from custody.datakeys.envelope import UserKeyring
from custody.datakeys.ring import Ring
from custody.datakeys.sealer import Sealer
from custody.db.one_database import name_of
from custody.keks import legacy
from custody.keks.keks import loaded_keks
from custody.keks.legacy import Unsealed
from custody.keks.records import RowCount, count_rows
from custody.keks.registry import unreadable as unreadable_rows
from custody.keks.second import SecondRoot, second_root
from custody.keks.watch import KekWatch
from custody.ops.garbage import look_seldom
from custody.rewrap import runs
from custody.rewrap.data_keys import DataKeyMove
from custody.rewrap.deep import DeepRotation
from custody.rewrap.left import Left
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
    options = dataclasses.replace(options, legacy=settings.accepts_legacy_rows)
    if dry_run:
        event_loop.run(_foresee(settings, options, as_json=as_json), "counting rows")
        return 0
    ended = event_loop.run(_run(settings, options))
    done = ended.run
    if as_json:
        click.echo(json.dumps(ended.as_object()))
    else:
        moved = f", {_data_keys(ended.data_keys)} moved" if ended.data_keys else ""
        if done.data_key:
            moved += f"; deep: rows are sealed with {done.data_key}"
        click.echo(
            f"run {done.id} to {done.target}: {done.done} re-wrapped, {done.moved} changed by "
            f"their users meanwhile, {done.failed} set aside{moved}; in {ended.database}"
        )
    for key_id, kek_ids in ended.ended.items():
        note(
            f"the data key {key_id} is ended. It was wrapped under {', '.join(kek_ids)}: if one of "
            "these was compromised, retire it and take it out of the configuration of every daemon"
        )
    for problem in ended.problems:
        note(problem)
    if done.failed:
        note(
            f"{done.failed} rows were set aside: their wraps do not open"
            f"{', or they are not what was sealed' if done.data_key else ''}. Restore them, or let "
            "their users rotate; to try them again: custody rewrap run --quarantined"
        )
    return 0 if done.state is State.DONE else FINDING


def status(as_json: bool) -> None:
    """Show the latest runs, how fast they go, and how many rows each KEK has.

    Uses CUSTODY_REWRAP_DATABASE_URL.
    """
    shown, counted, unsealed = event_loop.run(_status(prepare()), "counting rows")
    if as_json:
        rows = {kek_id: dataclasses.asdict(count) for kek_id, count in counted.items()}
        said = {
            "runs": [describe(one) for one in shown],
            "rows": rows,
            "legacy_rows": dataclasses.asdict(unsealed),
        }
        click.echo(json.dumps(said, indent=2))
        return
    for one in shown:
        click.echo(run_line(one))
    if shown and shown[0].state is State.STOPPED:
        click.echo("nobody works on it; what is left is done by: custody rewrap run")
    for kek_id, count in sorted(counted.items()):
        click.echo(
            f"{printable(kek_id)}: {count.wraps} rows, {count.legacy} not sealed, "
            f"{count.quarantined} set aside"
        )
    if unsealed:
        click.echo(f"{unsealed} not sealed yet")
    if not shown and not counted and not unsealed:
        click.echo("no run yet, and no row")


def run_line(run: Run) -> str:
    """Show a run in one line."""
    said = describe(run)
    pace = "" if said["rows_a_second"] is None else f", {said['rows_a_second']} rows/s"
    left = "" if said["seconds_left"] is None else f", {said['seconds_left']} s left"
    return printable(
        f"run {run.id}{' deep' if run.data_key else ''} {run.state}: "
        f"{run.done + run.failed} of {run.total} to {run.target}, "
        f"{run.moved} changed by their users, {run.failed} set aside{pace}{left}; "
        f"began {said['started_at']} by {run.started_by}"
    )


@dataclass(frozen=True, slots=True)
class _Ended:
    """A run that has ended.

    Args:
        run: its record.
        left: what it could not do, or may not.
        unreadable: of what it could not do, the KEKs' kek_ids, each with its cure.
        unsealed: rows that are not sealed.
        data_keys: ids of those that were moved.
        ended: ids of those that were ended here, each with the KEKs that it was wrapped under.
        database: its name, for people.
    """

    run: Run
    left: Left
    unreadable: dict[str, str]
    unsealed: Unsealed
    data_keys: tuple[str, ...]
    ended: Mapping[str, tuple[str, ...]]
    database: str

    @property
    def problems(self) -> tuple[str, ...]:
        """What is left, in one line each, with the cure."""
        refused = [legacy.refusal(self.left.unsealed)] if self.left.unsealed else []
        return (*self.unreadable.values(), *self.left.data_keys, *refused)

    def as_object(self) -> dict[str, object]:
        """Return it for JSON."""
        return describe(self.run) | {
            "data_keys": list(self.data_keys),
            "ended_data_keys": list(self.ended),
            "unreadable": list(self.unreadable),
            "legacy_rows": dataclasses.asdict(self.unsealed),
            "problems": list(self.problems),
        }


async def _foresee(settings: Settings, options: Options, *, as_json: bool) -> None:
    async with _prepared(settings) as (engine, keyring, ring, second):
        target = Target(engine, keyring, ring, legacy=options.legacy)
        moves = DataKeyMove(engine, keyring.keks, ring, second)
        kek_id = await target.foresee()
        deep = DeepRotation(engine, keyring.keks, ring, asyncio.Event())
        before = deep.foresee(deep=options.deep)
        stale = await runs.count_stale(
            engine,
            kek_id,
            everything=options.everything,
            legacy=options.legacy,
            before=before,
        )
        # One that is on its way out is not moved.
        data_keys = () if before else await moves.stale(target.kek_id)
        unsealed = await legacy.count_unsealed(engine)
        problems = [*_unreadable(keyring, stale.sources).values(), *await moves.problems()]
        problems += deep.doubtful
        if unsealed and not options.legacy:
            problems.append(legacy.refusal(unsealed))
        try:
            await target.check_instances()
        except Blocked as blocked:
            problems.append(str(blocked))
        database = await name_of(engine)
    if as_json:
        said = {
            "target": kek_id,
            "rotation": "deep" if before else "shallow",
            "total": stale.total,
            "sources": stale.sources,
            "data_keys": data_keys,
            "legacy_rows": dataclasses.asdict(unsealed),
        }
        click.echo(json.dumps(said))
    else:
        what = f"{stale.total} rows" + (f" and {_data_keys(data_keys)}" if data_keys else "")
        sources = f", from {', '.join(stale.sources)}" if stale.sources else ""
        new = " and a new data key" if before else ""
        click.echo(f"{what} to bring to {kek_id}{new}{sources}; in {database}")
    for problem in problems:
        note(problem)


async def _run(settings: Settings, options: Options) -> _Ended:
    stopping = _Stopping()
    async with (
        _prepared(settings) as (engine, keyring, ring, second),
        KekWatch(keyring.keks),
        ring.kept(),
    ):
        # Before: a run that was done is not to fail for a name.
        database = await name_of(engine)
        look_seldom()
        with progress() as shown:
            rewrapper = RewrapRun(engine, keyring, ring, options, shown.advance, second=second)
            stopping.hand_over(rewrapper)
            done = await _shown(rewrapper, shown)
        left = await rewrapper.left(done)
        unreadable = _unreadable(keyring, left.kek_ids)
        return _Ended(
            run=done,
            left=left,
            unreadable=unreadable,
            unsealed=left.unsealed or await legacy.count_unsealed(engine),
            data_keys=rewrapper.moved_data_keys,
            ended=rewrapper.ended_data_keys,
            database=database,
        )


def _data_keys(ids: Sequence[str]) -> str:
    return f"{len(ids)} data key{'' if len(ids) == 1 else 's'}"


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


async def _status(settings: Settings) -> tuple[tuple[Run, ...], dict[str, RowCount], Unsealed]:
    async with rewrap_engine(settings) as engine:
        shown, counted = await runs.latest(engine, _SHOWN_RUNS), await count_rows(engine)
        return shown, counted, await legacy.count_unsealed(engine)


@asynccontextmanager
async def _prepared(
    settings: Settings,
) -> AsyncIterator[tuple[AsyncEngine, Keyring, Ring, SecondRoot | None]]:
    """Load the KEKs, ask each KMS for its key, and connect; the data keys are opened later."""
    rewrap_dsn(settings)  # before a KMS is asked
    async with loaded_keks(settings, os.environ) as keyring:
        for backend in keyring:
            # One that is down says so when a row needs it.
            with contextlib.suppress(KekError):
                await backend.refresh()
        async with rewrap_engine(settings, pool_size=_POOL_SIZE) as engine:
            ring = Ring(engine, keyring, settings.data_key_ttl, settings.data_key_max_age)
            async with second_root(settings, os.environ, engine, keyring, Sealer(ring)) as second:
                yield engine, UserKeyring(keyring, ring), ring, second
