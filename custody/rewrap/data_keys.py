"""Data keys come to the target first: whoever retires the KEK of before then loses none of them."""

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.datakeys.data_key import DataKey
from custody.datakeys.records import Record, read_records
from custody.datakeys.ring import Ring
from custody.db.queries import query
from custody.db.scope import transaction
from custody.rewrap.batch import TargetMoved, wrong_wrap
from kek_backends.base import OwnedWrap, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import Tampered, Transient
from kek_backends.keyring import Keyring

# Each time another process, or somebody else, was faster.
_TRIES = 3

log = structlog.get_logger()


class DataKeyMove:
    """Brings the data key that stays to another KEK.

    One that is on its way out gets no wrap under the target: whoever knows it, since he had the KEK
    of before, could else bring it back by that wrap into a process that starts.

    Args:
        engine: connections of the role custody_rewrap.
        keyring: all KEKs.
        ring: the data keys.
    """

    def __init__(self, engine: AsyncEngine, keyring: Keyring, ring: Ring) -> None:
        self._engine = engine
        self._keyring = keyring
        self._ring = ring

    async def stale(self, target: str) -> tuple[str, ...]:
        """Return the ids of those that are wrapped under another KEK, or not under this one.

        Args:
            target: kek_id of the active KEK.
        """
        return tuple(
            record.id
            for record in await read_records(self._engine)
            if self._source(record.id, target) is not None and _kek_ids(record) != {target}
        )

    async def problems(self) -> tuple[str, ...]:
        """Say which are not open and so can't be moved, each in one line with its cure."""
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
        return tuple(
            [
                record.id
                for record in await read_records(self._engine)
                if (found := self._source(record.id, target)) is not None
                and await self._give_wrap(record, *found, target, anew=anew)
            ]
        )

    async def drop_others(self, target: str) -> None:
        """Drop their wraps under other KEKs, where they have one under the target.

        Args:
            target: kek_id of the active KEK; every live daemon can read it.
        """
        for record in await read_records(self._engine):
            if self._source(record.id, target) is None:
                continue
            for kek_id in sorted(_kek_ids(record) - {target}):
                async with transaction(self._engine) as connection:
                    dropped = await connection.fetchval(
                        query("drop_data_key_wrap"), record.id, kek_id, target
                    )
                if dropped:
                    log.info("data_key_wrap_dropped", data_key=record.id, kek_id=kek_id)

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
        self, record: Record, key: DataKey, source: Wrap, target: str, *, anew: bool
    ) -> bool:
        wraps = record.wraps
        for _ in range(_TRIES):
            there = next((wrap for wrap in wraps if wrap.kek_id == target), None)
            if there is not None and not anew and await self._opens(key, there, source):
                return False
            made = await self._wrap(key, source, target)
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

    async def _wrap(self, key: DataKey, source: Wrap, target: str) -> Wrap:
        """Return a new wrap under the target, which opens: nothing else may be stored."""
        (made,) = await self._keyring.rewrap([OwnedWrap(Binding.of_data_key(key.id), source)])
        if not isinstance(made, Wrap):
            raise made
        if made.kek_id != target:
            raise TargetMoved
        if not await self._opens(key, made):
            raise wrong_wrap(target)
        return made

    async def _opens(self, key: DataKey, wrap: Wrap, known: Wrap | None = None) -> bool:
        """Say whether a wrap holds this data key; the one that it was opened from is known to."""
        if wrap == known:
            return True
        try:
            found = await self._keyring.unwrap(Binding.of_data_key(key.id), wrap)
        except Tampered:
            return False
        return DataKey.of(key.id, found).is_of(key.own_seal)


def _kek_ids(record: Record) -> set[str]:
    return {wrap.kek_id for wrap in record.wraps}
