"""Data keys come to the target first: whoever retires the KEK of before then loses none of them.

Where there is a second root, each gets a wrap under that, too; nothing waits for it.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.datakeys.data_key import DataKey
from custody.datakeys.records import Record, read_records
from custody.datakeys.ring import Ring
from custody.db.errors import RetiredKek
from custody.db.queries import query
from custody.db.scope import transaction
from custody.keks.second import VARIABLE, SecondRoot
from custody.rewrap.batch import TargetMoved, WrongWrap, wrong_wrap
from kek_backends.base import OwnedWrap, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import KekError, Tampered, Transient
from kek_backends.keyring import Keyring

# A KMS gives up by itself before; a backend of others may not.
_SECONDS = 20.0
# Each time another process, or somebody else, was faster.
_TRIES = 3

T = TypeVar("T")

log = structlog.get_logger()


class DataKeyMove:
    """Brings the data key that stays to another KEK.

    One that is on its way out gets no wrap under the target: whoever knows it, since he had the KEK
    of before, could else bring it back by that wrap into a process that starts.

    Args:
        engine: connections of the role custody_rewrap.
        keyring: all KEKs.
        ring: the data keys.
        second: the second root; None: there is none.
    """

    def __init__(
        self, engine: AsyncEngine, keyring: Keyring, ring: Ring, second: SecondRoot | None = None
    ) -> None:
        self._engine = engine
        self._keyring = keyring
        self._ring = ring
        self._second = second
        # Of the second root: its kek_id when all have a wrap under it, or why they have not.
        self._second_id: str | None = None
        self._second_problem: str | None = None

    async def stale(self, target: str) -> tuple[str, ...]:
        """Return the ids of those that lack a wrap that they are to have, or have another one.

        Args:
            target: kek_id of the active KEK.
        """
        second = await self._look_at_second()
        wanted = {target} if second is None else {target, second}
        return tuple(
            record.id
            for record in await read_records(self._engine)
            if self._source(record.id, target) is not None
            and (not wanted <= _kek_ids(record) or self._to_drop(record, wanted))
        )

    async def problems(self) -> tuple[str, ...]:
        """Say which can't be moved, or not to the second root, each in one line with its cure."""
        unopened, problem = await self._unopened(), self._second_problem
        if problem is None:
            return unopened
        return (*unopened, f"data keys have no new wrap under {VARIABLE}: {problem}")

    async def _unopened(self) -> tuple[str, ...]:
        return tuple(
            self._ring.reason(record.id)
            or f"the record {record.id} holds no data key of ours; if it is not yours, run: "
            f"custody kek forget {record.id}"
            for record in await read_records(self._engine)
            if not record.is_lost and self._ring.source(record.id) is None
        )

    async def give_wraps(self, target: str, *, anew: bool) -> tuple[str, ...]:
        """Give each of them a wrap under the target that opens; return the ids of who got one.

        Args:
            target: kek_id of the active KEK.
            anew: whether one that has a wrap gets another one: for a key that keeps its kek_id.

        Raises:
            WrongWrap: a new wrap does not open to the data key.
            TargetMoved: the key of the KMS has moved on.
            KekError: the KMS can't be asked now.
            RetiredKek: the target was retired.
            DatabaseError: the database can't be asked now.
        """
        return await self._give(self._keyring, target, target, anew=anew)

    async def give_second_wraps(self, target: str, *, anew: bool) -> tuple[str, ...]:
        """Give each of them a wrap under the second root, too, where there is one.

        Where that fails, :meth:`problems` says so: the rest does not wait for it.

        Args:
            target: kek_id of the active KEK.
            anew: as for :meth:`give_wraps`.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        self._second_id = self._second_problem = None
        if self._second is None:
            return ()
        try:
            second = await self._second.admit()
            given = await self._give(self._second.keyring(), second, target, anew=anew)
        except TargetMoved:
            self._note_second("its key was rotated just now: run this again")
        except (KekError, WrongWrap, RetiredKek) as error:
            self._note_second(str(error) or type(error).__name__)
        else:
            self._second_id = second
            return given
        return ()

    async def drop_others(self, target: str) -> None:
        """Drop their wraps under other KEKs, where they have one under the target.

        With a second root all of them stay until each has a wrap under that: one of them may be
        its own, or that of the second root of before.

        Args:
            target: kek_id of the active KEK; every live daemon can read it.
        """
        wanted = {target} if self._second_id is None else {target, self._second_id}
        for record in await read_records(self._engine):
            if self._source(record.id, target) is None:
                continue
            for kek_id in sorted(self._to_drop(record, wanted)):
                async with transaction(self._engine) as connection:
                    dropped = await connection.fetchval(
                        query("drop_data_key_wrap"), record.id, kek_id, target
                    )
                if dropped:
                    log.info("data_key_wrap_dropped", data_key=record.id, kek_id=kek_id)

    def _to_drop(self, record: Record, wanted: set[str]) -> set[str]:
        """Return the KEKs whose wraps of a data key are of no more use.

        Args:
            record: of the data key.
            wanted: kek_ids of those that it is to have.
        """
        kek_ids = _kek_ids(record)
        return kek_ids - wanted if wanted <= kek_ids and not self._second_problem else set()

    async def _look_at_second(self) -> str | None:
        """Return the kek_id of the second root; None where there is none, or none to be used."""
        self._second_problem = None
        try:
            return None if self._second is None else await self._second.look()
        except KekError as error:
            self._note_second(str(error) or type(error).__name__)
            return None

    def _note_second(self, problem: str) -> None:
        self._second_problem = problem
        log.warning("second_root_failed", reason=problem)

    async def _give(
        self, keyring: Keyring, kek_id: str, target: str, *, anew: bool
    ) -> tuple[str, ...]:
        """Give each that stays a wrap under a KEK.

        Args:
            keyring: wraps under that KEK.
            kek_id: its kek_id.
            target: kek_id of the active KEK.
            anew: as for :meth:`give_wraps`.
        """
        return tuple(
            [
                record.id
                for record in await read_records(self._engine)
                if (found := self._source(record.id, target)) is not None
                and await self._give_wrap(keyring, record, *found, anew=anew, target=kek_id)
            ]
        )

    def _source(self, key_id: str, target: str) -> tuple[DataKey, Wrap] | None:
        """Return a data key that stays, and the wrap that it came out of; None for others.

        A successor stays, if it came out of a wrap under the target: one that did not may be
        somebody else's, and is not to come under it by us.
        """
        found = self._ring.source(key_id)
        if successors := {record.id for record in self._ring.successors}:
            is_ours = key_id in successors and found is not None and found[1].kek_id == target
            return found if is_ours else None
        current = self._ring.current
        return found if current is not None and key_id == current.id else None

    async def _give_wrap(
        self,
        keyring: Keyring,
        record: Record,
        key: DataKey,
        source: Wrap,
        *,
        target: str,
        anew: bool,
    ) -> bool:
        wraps = record.wraps
        for _ in range(_TRIES):
            there = next((wrap for wrap in wraps if wrap.kek_id == target), None)
            if there is not None and not anew and await self._opens(keyring, key, there, source):
                return False
            made = await self._wrap(keyring, key, source, target)
            async with transaction(self._engine) as connection:
                put = await connection.fetchval(
                    query("put_data_key_wrap"),
                    *(key.id, target, made.wrapped_mk, made.wrap_iv, there and there.wrapped_mk),
                )
            if put:
                log.info("data_key_rewrapped", data_key=key.id, kek_id=target)
                return True
            anew = False  # who was faster has just made it
            records = await read_records(self._engine)
            wraps = next((now.wraps for now in records if now.id == key.id), ())
        raise Transient(f"the wraps of the data key {key.id} change again and again")

    async def _wrap(self, keyring: Keyring, key: DataKey, source: Wrap, target: str) -> Wrap:
        """Return a new wrap under the target, which opens: nothing else may be stored."""
        item = OwnedWrap(Binding.of_data_key(key.id), source)
        (made,) = await _in_time(keyring.rewrap([item]))
        if not isinstance(made, Wrap):
            raise made
        if made.kek_id != target:
            raise TargetMoved
        if not await self._opens(keyring, key, made):
            raise wrong_wrap(target)
        return made

    async def _opens(
        self, keyring: Keyring, key: DataKey, wrap: Wrap, known: Wrap | None = None
    ) -> bool:
        """Say whether a wrap holds this data key; the one that it was opened from is known to."""
        if wrap == known:
            return True
        try:
            found = await _in_time(keyring.unwrap(Binding.of_data_key(key.id), wrap))
        except Tampered:
            return False
        return DataKey.of(key.id, found).is_of(key.own_seal)


def _kek_ids(record: Record) -> set[str]:
    return {wrap.kek_id for wrap in record.wraps}


async def _in_time(call: Awaitable[T]) -> T:
    """Wait for a KEK no longer than it may take."""
    try:
        async with asyncio.timeout(_SECONDS):
            return await call
    except TimeoutError:
        raise Transient("a KEK gave no answer in time") from None
