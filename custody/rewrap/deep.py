"""A deep rotation: a new data key is announced, promoted, and the one before is ended.

What it leaves between any two steps is on record, and whoever comes next goes on from there.
"""

import asyncio
import time
from collections.abc import Callable

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit.ended_key import word_of_end
from custody.audit.settled import drawn
from custody.datakeys.data_key import DataKey
from custody.datakeys.making import make_data_key
from custody.datakeys.records import Record
from custody.datakeys.ring import Ring
from custody.datakeys.sealer import Sealer
from custody.db.queries import query
from custody.db.scope import transaction
from custody.keks import instances
from custody.keks.instances import Instance
from custody.keks.resealing import reseal_records
from custody.rewrap.backoff import sleep, stopped
from custody.rewrap.target import Blocked
from kek_backends.errors import Transient
from kek_backends.keyring import Keyring

# A daemon looks every ten seconds.
_WAIT_SECONDS = 60.0
_LOOK_SECONDS = 1.0
# To look through all rows for one that carries it: about a third of a second for a million.
_END_SECONDS = 120.0
_CARRIED = {
    "rows": "rows are still sealed with it",
    "wraps": "rows are still wrapped with it",
    "keks": "records of KEKs are still sealed with it",
    "changed": "its record has changed meanwhile",
}

log = structlog.get_logger()


class DeepRotation:
    """Brings in a new data key, and ends the one before.

    Args:
        engine: connections of the role custody_rewrap.
        keyring: all KEKs; the active one wraps the new data key.
        ring: the data keys.
        stop: ends each wait.
    """

    def __init__(
        self, engine: AsyncEngine, keyring: Keyring, ring: Ring, stop: asyncio.Event
    ) -> None:
        self._engine = engine
        self._keyring = keyring
        self._ring = ring
        self._stop = stop
        # Ids of those that were ended here, each with the KEKs that it was wrapped under.
        self.ended: dict[str, tuple[str, ...]] = {}

    @property
    def before(self) -> tuple[str, ...]:
        """Ids of the data keys that rows may still be sealed with, and shall not be."""
        return tuple(record.id for record in self._ring.predecessors)

    @property
    def data_key(self) -> str | None:
        """Id of the data key that rows are to be sealed with, while there is one before it."""
        current = self._ring.current
        return current.id if current is not None and self.before else None

    @property
    def is_announced(self) -> bool:
        """Whether there is a successor that a run would go on with."""
        return any(map(self._is_under_active, self._ring.successors))

    @property
    def doubtful(self) -> tuple[str, ...]:
        """Say which successors are not gone on with, in one line each with the cure.

        Whoever knows the current data key and had an old KEK could have announced one of his own.
        """
        return tuple(
            f"the data key {record.id} was announced under another KEK than the active one, and "
            f"may be anybody's who had that one; it is not used: custody kek forget {record.id}"
            for record in self._ring.successors
            if not self._is_under_active(record)
        )

    def foresee(self, *, deep: bool) -> tuple[str, ...]:
        """Return the ids of the data keys whose rows a run would seal anew; it asks nobody.

        Args:
            deep: whether the run would announce a new data key.
        """
        current = self._ring.current
        if self.before or current is None or not (deep or self._ring.successors):
            return self.before
        return (current.id,)

    async def announce(self) -> None:
        """Announce a new data key, unless there is one already, or one before is still to be ended.

        Raises:
            KekError: the KMS can't be asked now, or the current data key is not open.
            DatabaseError: the database can't be asked now; it may have been announced.
        """
        await self._ring.load(anew=True)
        current = self._current()
        if self.before or self._ring.successors:
            return
        key, wrap = await make_data_key(self._keyring, after=current.id)
        async with transaction(self._engine) as connection:
            there = await connection.fetchval(
                query("announce_data_key"),
                *(key.id, str(current.vouch(key.id, key.own))),
                *(wrap.kek_id, wrap.wrapped_mk, wrap.wrap_iv),
                *(current.id, current.own_seal, [record.id for record in self._ring.bad]),
            )
        if there == key.id:
            log.info("data_key_announced", data_key=key.id, kek_id=wrap.kek_id)
        await self._ring.load(anew=True)
        if not self.before and not self._ring.successors:
            raise Transient(
                f"the data key {there or key.id} was not announced, or is not open: "
                f"{self._ring.degraded or 'try again'}"
            )

    async def promote(self) -> None:
        """Make the successor the current data key, where there is one that is to be trusted.

        Raises:
            Blocked: a live daemon does not have it open; the message names the daemon.
            NotFinished: it was stopped.
            KekError: the successor is not open here.
            DatabaseError: the database can't be asked now.
        """
        record = next(filter(self._is_under_active, self._ring.successors), None)
        if record is None:
            return
        current, (successor, _) = self._current(), self._ring.source(record.id) or (None, None)
        if successor is None:
            raise Transient(f"the data key {record.id} is not open")
        lagging = await self._lagging(lambda one: record.id in one.reads)
        if lagging is not None:
            raise Blocked(
                f"{_where(lagging)} has not opened the data key {record.id}: see its /readyz, or "
                "restart it, then run this again"
            )
        async with transaction(self._engine) as connection:
            promoted = await connection.fetchval(
                query("promote_data_key"),
                *(record.id, record.seal, current.id, current.own_seal),
                successor.vouch(current.id, current.own).word,
            )
        await self._ring.load(anew=True)
        if not promoted and self._current().id != record.id:
            raise Transient("the records of the data keys have changed meanwhile")

    async def finish(self) -> str | None:
        """End the data keys that nothing is to carry any more; say why one can't be ended now.

        Raises:
            NotFinished: it was stopped.
            DatabaseError: the database can't be asked now; one may have been ended.
        """
        await self._ring.load(anew=True)
        problems = [await self._end(record) for record in self._ring.predecessors]
        await self._ring.load(anew=True)
        return "; ".join(problem for problem in problems if problem) or None

    async def _end(self, record: Record) -> str | None:
        current = self._current()
        beginning = f"the data key {record.id} can't be ended yet"
        lagging = await self._lagging(lambda one: one.seals_with in {None, current.id})
        if lagging is not None:
            return f"{beginning}: {_where(lagging)} still seals with {lagging.seals_with}"
        if (source := self._ring.source(record.id)) is None:
            reason = self._ring.reason(record.id) or "try again"
            return f"{beginning}, it is not open, so the audit would know nothing of it: {reason}"
        await reseal_records(self._engine, Sealer(self._ring), current.prefix)
        # No daemon seals audit rows with it any more: what one has, has a number that was drawn.
        word = word_of_end(source[0], await drawn(self._engine), current)
        async with transaction(self._engine, _END_SECONDS) as connection:
            outcome = await connection.fetchval(
                query("end_data_key"),
                *(record.id, record.seal, current.id, current.own_seal, word),
                timeout=_END_SECONDS,
            )
        if outcome in _CARRIED:
            return f"{beginning}, {_CARRIED[outcome]}: run this again"
        self.ended[record.id] = tuple(wrap.kek_id for wrap in record.wraps)
        # Who has not seen it yet, or not that moment at all, believes it still.
        lagging = await self._lagging(lambda one: record.id not in one.reads)
        if lagging is not None:
            return f"the data key {record.id} is ended; {_where(lagging)} still has it: restart it"
        return None

    async def _lagging(self, follows: Callable[[Instance], bool]) -> Instance | None:
        """Wait until every live daemon has followed; return one that has not in time."""
        end = time.monotonic() + _WAIT_SECONDS
        while True:
            found = [one for one in await instances.live(self._engine) if not follows(one)]
            if not found:
                return None
            if time.monotonic() >= end:
                return found[0]
            await sleep(self._stop, _LOOK_SECONDS)
            if self._stop.is_set():
                raise stopped()

    def _is_under_active(self, record: Record) -> bool:
        """Say whether a data key came out of its wrap under the active KEK, and no other."""
        source = self._ring.source(record.id)
        return source is not None and source[1].kek_id == self._keyring.active.kek_id

    def _current(self) -> DataKey:
        current = self._ring.current
        if current is None:
            raise Transient(self._ring.problem or "no data key is open")
        return current


def _where(instance: Instance) -> str:
    return f"the daemon on {instance.host} (process {instance.process})"
