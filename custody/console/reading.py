"""Makes snapshots: at most one a second, shared by all who look."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.console.history import History, Interval, Key
from custody.console.known import Known, Look
from custody.console.snapshot import Ages, Found, Kek, Kms, Level, Seal, Snapshot
from custody.console.traffic import Traffic, traffic
from custody.console.tree import MOST_SHOWN, Standing, Tree, grow
from custody.console.verdict import judge
from custody.datakeys.ring import Ring
from custody.db.errors import DatabaseError
from custody.keks import instances
from custody.keks.instances import Instance
from custody.keks.records import (
    RecordedDataKey,
    RegisteredKek,
    RowCount,
    count_rows,
    list_data_keys,
    list_keks,
)
from custody.ops.health import Health
from custody.rewrap import runs
from custody.rewrap.runs import Run
from kek_backends.base import KekBackend
from kek_backends.findings import Finding, Severity
from kek_backends.keyring import Keyring

_SECONDS = 1.0
_RECORDS_SECONDS, _COUNT_SECONDS, _DOCTOR_SECONDS = 5.0, 2.0, 900.0
_QUERY_SECONDS, _EXAMINATION_SECONDS = 2.0, 120.0
# All rows are read for it: a hundredth of the time at most is spent on that.
_COUNT_SPARE = 100
_SHOWN_RUNS = 6
_LATE_SECONDS = 300.0
_NO_ROLE = "rows and runs are read by the role custody_rewrap: set CUSTODY_REWRAP_DATABASE_URL"
_LEVELS = {
    Severity.OK: Level.WELL,
    Severity.WARNING: Level.WATCH,
    Severity.ERROR: Level.BAD,
}

Examine = Callable[[], Awaitable[Sequence[Finding]]]


@dataclass(frozen=True, slots=True)
class Sources:
    """Who is asked.

    Args:
        health: of this process.
        keyring: what users' keys are wrapped under.
        ring: the data keys.
        history: the last hour.
        engine: connections of the role custody_app.
        rewrap: connections of the role custody_rewrap; None: there are none.
        examine: the doctor's diagnostics.
        seals: whether this daemon seals the audit.
    """

    health: Health
    keyring: Keyring
    ring: Ring
    history: History
    engine: AsyncEngine
    rewrap: AsyncEngine | None
    examine: Examine
    seals: bool


T = TypeVar("T")
Records = tuple[tuple[RegisteredKek, ...], tuple[RecordedDataKey, ...]]


class Reader:
    """Reads a snapshot; nothing is read while nobody looks.

    Args:
        sources: who is asked.
        clock: monotonic seconds.
    """

    def __init__(self, sources: Sources, clock: Callable[[], float] = time.monotonic) -> None:
        self._sources = sources
        self._clock = clock
        self._at = float("-inf")
        self._snapshot: Snapshot | None = None
        self._added_up: tuple[Interval | None, Counter[Key], Traffic] | None = None
        self._turn = asyncio.Lock()
        self._records: Look[Records] = Look(
            self._read_records, every=_RECORDS_SECONDS, within=_QUERY_SECONDS
        )
        self._instances: Look[tuple[Instance, ...]] = Look(
            self._read_instances, every=_RECORDS_SECONDS, within=_QUERY_SECONDS
        )
        self._runs: Look[tuple[Run, ...]] = Look(
            self._read_runs, every=_SECONDS, within=_QUERY_SECONDS
        )
        self._counts: Look[dict[str, RowCount]] = Look(
            self._count,
            every=_COUNT_SECONDS,
            within=_EXAMINATION_SECONDS,
            spare=_COUNT_SPARE,
        )
        self._doctor: Look[tuple[Found, ...]] = Look(
            self._examine, every=_DOCTOR_SECONDS, within=_EXAMINATION_SECONDS
        )
        self._looks = (self._records, self._instances, self._runs, self._counts, self._doctor)

    async def read(self) -> Snapshot:
        """Return a snapshot that is a second old at most."""
        async with self._turn:
            if self._snapshot is None or self._clock() - self._at >= _SECONDS:
                await asyncio.gather(*(look.look() for look in self._looks))
                self._snapshot = self._take(time.time())
                self._at = self._clock()
            return self._snapshot

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Read for the length of the block; what is under way at its end is given up."""
        try:
            yield
        finally:
            for look in self._looks:
                await look.close()

    def _take(self, now: float) -> Snapshot:
        health = self._sources.health
        hour, of_users = self._hour(now)
        tree, kms, audit = self._tree(), self._kms(hour, now), self._audit(hour, now)
        found = self._doctor.known
        return Snapshot(
            verdict=judge(
                health.parts(),
                health.degraded(),
                {key[0]: int(number) for key, number in hour.items() if len(key) == 1},
                tree=tree,
                kms=kms,
                audit=audit,
                found=found.value or (),
            ),
            tree=tree,
            rewrap=_without_time(self._runs.known),
            traffic=of_users,
            kms=kms,
            audit=audit,
            instances=_without_time(self._instances.known),
            doctor=found,
        )

    def _hour(self, now: float) -> tuple[Counter[Key], Traffic]:
        """Return what the last hour says; it is added up once for each sample."""
        history = self._sources.history
        newest = history.intervals[-1] if history.intervals else None
        if self._added_up is None or self._added_up[0] is not newest:
            added_up = history.totals(), traffic(history.intervals, now)
            self._added_up = newest, *added_up
        return self._added_up[1:]

    def _tree(self) -> Known[Tree]:
        records, counts = self._records.known, self._counts.known
        problem = records.problem or counts.problem
        if records.value is None:
            return Known(problem=problem)
        keyring, current = self._sources.keyring, self._sources.ring.current
        standing = Standing(
            active=keyring.keks.active.kek_id,
            target=keyring.active.kek_id,
            current=None if current is None else current.id,
        )
        tree = grow(*records.value, counts.value, standing)
        known = Known(tree, counts.at or records.at, problem)
        # While rows are stale a run may be faster than the counts.
        return known if tree.stale else _without_time(known)

    def _kms(self, hour: Counter[Key], now: float) -> Kms:
        keyring = self._sources.keyring.keks
        keks = (self._kek(kek, hour, is_active=kek is keyring.active) for kek in keyring)
        return Kms(tuple(keks), self._ages(now))

    def _kek(self, kek: KekBackend, hour: Counter[Key], *, is_active: bool) -> Kek:
        name = kek.uri.key_text
        calls = Counter(
            {
                key[2]: int(n)
                for key, n in hour.items()
                if key[:2] == ("custody_kms_calls_total", name)
            }
        )
        made = hour["custody_kms_call_seconds_count", name]
        is_open = self._sources.history.state("custody_kms_breaker_open", name) > 0
        return Kek(
            uri=kek.uri.text,
            is_active=is_active,
            in_process=kek.in_process,
            problem=kek.problem,
            is_not_asked=kek.is_not_asked or is_open,
            calls=calls.total(),
            failures=calls["unavailable"] + calls["not-asked"],
            refusals=calls["refused"],
            seconds=hour["custody_kms_call_seconds_sum", name] / made if made else None,
        )

    def _ages(self, now: float) -> Ages:
        state = self._sources.history.state
        activated = state("custody_kek_activated_timestamp_seconds")
        longest = state("custody_kek_max_age_seconds")
        due = activated + longest if activated and longest else 0.0
        left = state("custody_data_key_seconds_left")
        # To the minute: it is reckoned anew with each sample.
        kept = (now + left) // 60 * 60 if left else 0.0
        return Ages(
            activated=_moment(activated),
            due=_moment(due),
            is_overdue=bool(due) and due < now,
            oldest=_moment(state("custody_oldest_wrap_timestamp_seconds")),
            opened=_moment(state("custody_data_key_opened_timestamp_seconds")),
            kept_until=_moment(kept),
            is_coasting=bool(state("custody_data_key_coasting")),
            jwks=_moment(state("custody_jwks_fetched_timestamp_seconds")),
        )

    def _audit(self, hour: Counter[Key], now: float) -> Seal:
        state = self._sources.history.state
        until = state("custody_audit_sealed_timestamp_seconds")
        return Seal(
            is_made_here=self._sources.seals,
            until=_moment(until),
            is_late=bool(until) and now - until > _LATE_SECONDS,
            waiting=int(state("custody_audit_unsealed_rows")),
            alarms=int(hour["custody_audit_alarms_total",]),
        )

    async def _read_records(self) -> Records:
        engine = self._sources.engine
        return await list_keks(engine), await list_data_keys(engine)

    async def _read_instances(self) -> tuple[Instance, ...]:
        return tuple(islice(await instances.live(self._sources.engine), MOST_SHOWN))

    async def _read_runs(self) -> tuple[Run, ...]:
        if self._sources.rewrap is None:
            raise DatabaseError(_NO_ROLE)
        return await runs.latest(self._sources.rewrap, _SHOWN_RUNS)

    async def _count(self) -> dict[str, RowCount]:
        if self._sources.rewrap is None:
            raise DatabaseError(_NO_ROLE)
        return await count_rows(self._sources.rewrap)

    async def _examine(self) -> tuple[Found, ...]:
        return tuple(
            Found(_LEVELS.get(one.severity), one.part, one.message, one.cure)
            for one in await self._sources.examine()
        )


def _without_time(known: Known[T]) -> Known[T]:
    """Leave out when it was read, unless it is old: else each look would seem to be another."""
    return known if known.problem else replace(known, at=0.0)


def _moment(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
