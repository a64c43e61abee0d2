"""Runs are records in the database: many processes share one, and none is missed for long."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit.events import Action, Event, event_id
from custody.audit.row_seal import RowSeals
from custody.audit.writer import write
from custody.db.engine import Connection
from custody.db.queries import query
from custody.db.scope import transaction

# So long a claim is its owner's after a heartbeat, and a run goes on without one.
LEASE_SECONDS = 15.0
_OK, _FAILED = 200, 500
# Counting reads the whole table: about a third of a second for a million rows.
_COUNT_SECONDS = 120.0


class State(StrEnum):
    """How far a run is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Run:
    """A run as its record says.

    Args:
        id: of the record.
        target: the kek_id that rows are brought to.
        everything: whether rows under the target are re-wrapped, too.
        started_by: host and process of whoever began it.
        sources: the kek_ids that rows had when it began.
        state: running, done, failed (rows are left) or stopped (before its end, or given up).
        total: rows to do, counted at the beginning.
        done: rows re-wrapped.
        moved: rows that somebody else changed meanwhile.
        failed: rows that were set aside.
        started_at: when it began.
        heartbeat_at: when somebody last worked on it.
        ended_at: when it ended.
        data_key: of a deep run, the data key that rows are sealed with; None: a shallow run.
    """

    id: int
    target: str
    everything: bool
    started_by: str
    sources: tuple[str, ...]
    state: State
    total: int
    done: int
    moved: int
    failed: int
    started_at: datetime
    heartbeat_at: datetime
    ended_at: datetime | None
    data_key: str | None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Build it from a row of ``list_rewrap_runs.sql``."""
        values = dict(row)
        return cls(
            **values | {"sources": tuple(values["sources"]), "state": State(values["state"])}
        )

    @property
    def rotation(self) -> str:
        """Whether data keys came under another KEK alone, or every row to a new data key."""
        return "shallow" if self.data_key is None else "deep"

    @property
    def rows_a_second(self) -> float:
        """How fast it went until the last heartbeat."""
        seconds = (self.heartbeat_at - self.started_at).total_seconds()
        return (self.done + self.failed) / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """How long it will take at this pace; None where that can't be said."""
        if self.state is not State.RUNNING or not self.rows_a_second:
            return None
        return max(0, self.total - self.done - self.failed) / self.rows_a_second


class AnotherRun(Exception):
    """A run with another aim is going on."""


@dataclass(frozen=True, slots=True)
class Stale:
    """What there is to do.

    Args:
        total: rows.
        sources: the kek_ids that they have.
        without_wrap: of these, rows in zero-knowledge mode, which are only sealed.
    """

    total: int
    sources: tuple[str, ...]
    without_wrap: int = 0


async def count_stale(
    engine: AsyncEngine,
    target: str,
    *,
    everything: bool,
    legacy: bool = False,
    before: Sequence[str] = (),
) -> Stale:
    """Count the rows that a run would do.

    Args:
        engine: connections of the role custody_rewrap.
        target: the kek_id to bring rows to.
        everything: whether rows under the target are re-wrapped, too.
        legacy: whether rows that are not sealed are brought over.
        before: ids of the data keys whose rows are sealed anew.
    """
    async with transaction(engine, _COUNT_SECONDS) as connection:
        return await _count(connection, target, before, everything=everything, legacy=legacy)


async def join(
    engine: AsyncEngine,
    target: str,
    *,
    everything: bool,
    started_by: str,
    legacy: bool = False,
    data_key: str | None = None,
    before: Sequence[str] = (),
    seals: RowSeals | None = None,
) -> Run:
    """Begin a run, or join the one that is going on, or go on with one that was stopped.

    Of two that differ in the data key alone the one that is going on is joined: it is soon done.

    Args:
        engine: connections of the role custody_rewrap.
        target: the kek_id to bring rows to.
        everything: whether rows under the target are re-wrapped, too.
        started_by: host and process.
        legacy: whether rows that are not sealed are brought over; it is of the count alone.
        data_key: the one that rows are to be sealed with, where they are not; None: they are.
        before: ids of those that they are sealed with; it is of the count alone.
        seals: make the seal of its audit row.

    Raises:
        AnotherRun: somebody works on a run with another aim.
        DatabaseError: the database can't be asked now.
    """
    # Whoever comes while another one counts waits for it.
    async with transaction(engine, _COUNT_SECONDS, lock_seconds=_COUNT_SECONDS) as connection:
        # Of two that begin at once, the second finds the first one's run.
        await connection.execute(query("lock_rewrap_runs"), timeout=_COUNT_SECONDS)
        for _ in await connection.fetch(query("stop_dead_rewrap_run"), target, everything):
            await write(connection, _event(State.STOPPED), seals)
        rows = await connection.fetch(query("read_running_rewrap"))
        if not rows:
            rows = await connection.fetch(query("resume_rewrap"), target, everything, data_key)
        if not rows:
            await connection.execute(query("clear_rewrap_claims"))
            stale = await _count(connection, target, before, everything=everything, legacy=legacy)
            parameters = target, everything, started_by, list(stale.sources), stale.total
            rows = await connection.fetch(query("begin_rewrap"), *parameters, data_key)
    run = Run.from_row(rows[0])
    if (run.target, run.everything) != (target, everything):
        raise AnotherRun(
            f"run {run.id} to {run.target} is going on, started by {run.started_by}: wait for its "
            "end, or stop it there"
        )
    return run


async def end(
    engine: AsyncEngine,
    run_id: int,
    state: State,
    *,
    even_at_work: bool = False,
    seals: RowSeals | None = None,
) -> Run:
    """Close a run's record, with its audit row, and return how it is then.

    Where another process has closed it, or works on a claim of it, nothing changes.

    Args:
        engine: connections of the role custody_rewrap.
        run_id: which.
        state: how it ended; one that set rows aside was never done, but failed.
        even_at_work: end it even while others work on it: what they do then is not stored any more.
        seals: make the seal of its audit row.
    """
    async with transaction(engine) as connection:
        # Whoever claims locks it, too: so a claim is seen here, or finds the run closed.
        await connection.fetch(query("lock_rewrap_cursor"), run_id)
        at_work = await connection.fetchval(query("count_rewrap_claims"), run_id)
        if even_at_work or not at_work:
            ended = await connection.fetchval(query("end_rewrap"), run_id, state)
            if ended is not None:
                await write(connection, _event(State(ended)), seals)
                # Should it be gone on with after all, nobody waits for those who lost it.
                await connection.execute(query("give_back_rewrap_claims"), run_id, None)
        (row,) = await connection.fetch(query("read_rewrap_run"), run_id)
    return Run.from_row(row)


async def leave(
    engine: AsyncEngine, run_id: int, owners: Sequence[str], seals: RowSeals | None = None
) -> None:
    """Give back what we have claimed of a run; where nobody else works on it, it is stopped.

    Another process that is just between two claims finds it stopped, and goes on with it.

    Args:
        engine: connections of the role custody_rewrap.
        run_id: which.
        owners: our names.
        seals: make the seal of its audit row.
    """
    async with transaction(engine) as connection:
        # As in :func:`end`.
        await connection.fetch(query("lock_rewrap_cursor"), run_id)
        await connection.execute(query("give_back_rewrap_claims"), run_id, list(owners))
        if not await connection.fetchval(query("count_live_rewrap_claims"), run_id, LEASE_SECONDS):
            ended = await connection.fetchval(query("end_rewrap"), run_id, State.STOPPED)
            if ended is not None:
                await write(connection, _event(State(ended)), seals)


async def read(engine: AsyncEngine, run_id: int) -> Run:
    """Read a run's record."""
    async with transaction(engine) as connection:
        (row,) = await connection.fetch(query("read_rewrap_run"), run_id)
    return Run.from_row(row)


async def release_quarantined(engine: AsyncEngine) -> int:
    """Let rows that were set aside be tried again, and return how many there were."""
    async with transaction(engine, _COUNT_SECONDS) as connection:
        return int(await connection.fetchval(query("release_quarantined"), timeout=_COUNT_SECONDS))


async def latest(engine: AsyncEngine, count: int) -> tuple[Run, ...]:
    """Return the latest run, and the latest of those that did something, the newest first.

    One that no process works on any more counts as stopped, whatever its record says.

    Args:
        engine: connections of the role custody_rewrap.
        count: of runs at most.
    """
    async with transaction(engine) as connection:
        rows = await connection.fetch(query("list_rewrap_runs"), count, LEASE_SECONDS)
    return tuple(Run.from_row(row) for row in rows)


async def _count(
    connection: Connection, target: str, before: Sequence[str], *, everything: bool, legacy: bool
) -> Stale:
    prefixes = [f"1.{key_id}." for key_id in before]
    (row,) = await connection.fetch(
        query("count_stale_rows"), target, everything, legacy, prefixes, timeout=_COUNT_SECONDS
    )
    return Stale(row["total"], tuple(row["sources"]), row["without_wrap"])


def _event(state: State) -> Event:
    return Event(
        id=event_id(),
        user_id="",
        ip_address=None,
        user_agent=None,
        action=Action.REWRAP_RUN,
        context=f"run-{state}",
        status=_OK if state is State.DONE else _FAILED,
    )
