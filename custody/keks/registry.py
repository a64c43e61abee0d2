"""The registry of KEKs: a kek_id can never come to mean other key material, nor return retired.

What a kek_id stands for is kept in the database. Before this process stores a wrap under a kek_id
it has compared the KEK with the registry, and recorded it there.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.queries import query
from custody.db.scope import transaction
from custody.keks.census import kek_ids_in_use, unreadable
from custody.keks.proof import (
    RETIRED,
    RecordSealer,
    compare,
    read_record,
    refuse_other_material,
    retired,
    seal_of,
)
from custody.keks.trust import tell_what_is_known
from kek_backends.base import KekBackend
from kek_backends.errors import KekError, Misconfigured, Transient
from kek_backends.keyring import Keyring

__all__ = [
    "KekRegistry",
    "RecordSealer",
    "compare",
    "is_retired",
    "kek_ids_in_use",
    "retired",
    "unreadable",
]

_REGISTER_SECONDS = 3.0

log = structlog.get_logger()


class KekRegistry:
    """The configured KEKs, compared with what the database knows of them.

    Args:
        engine: connections of a runtime role.
        keyring: all that users' keys are wrapped under; of them KEKs are registered.
        sealer: makes and judges the seals of records; without one they are believed as they are.
        legacy: whether the kek_ids of records that are not sealed count as known: the door for
            rows that are not sealed is open.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        keyring: Keyring,
        sealer: RecordSealer | None = None,
        *,
        legacy: bool = False,
    ) -> None:
        self._engine = engine
        self._keyring = keyring
        self._sealer = sealer
        self._legacy = legacy
        # What the last look found right, to be recorded.
        self._compared: tuple[_Compared, ...] = ()
        # The kek_ids that were recorded, with the fingerprint they had then, and the one of them
        # that was recorded as active last.
        self._admitted: dict[str, str] = {}
        self._active: str | None = None
        self._problems: tuple[str, ...] = ()
        # The kek_ids that rows carried at the last look.
        self.in_rows: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Rows that no configured KEK can unwrap, and KEKs that are not what is recorded."""
        return self._problems

    async def check(self) -> None:
        """Compare every KEK with the registry, and record what is new.

        Raises:
            Misconfigured, DatabaseError: as :meth:`compare` and :meth:`record`.
        """
        await self.compare()
        await self.record()

    def is_proven(self, kek_id: str) -> bool:
        """Say whether the last look found a KEK to be the one that is on record for its kek_id."""
        return kek_id in self._admitted or any(
            one.on_record for one in self._compared if one.kek_id == kek_id
        )

    async def compare(self) -> None:
        """Compare every KEK with the registry; prove those of which it says nothing that counts.

        A KMS that has not answered yet says nothing of its kek_ids: it is left for later. Nothing
        is recorded; a seal that does not hold is taken off.

        Raises:
            Misconfigured: a KEK is not the one that its kek_id stands for, or the active one is
                retired.
            DatabaseError: the database can't be asked now.
        """
        await tell_what_is_known(
            self._engine, self._keyring.keks, self._sealer, legacy=self._legacy
        )
        in_use = await kek_ids_in_use(self._engine)
        refused = [*self._doubles(), *await self._retired()]
        compared = []
        for backend, kek_id in self._held(in_use):
            async with _kept(refused):
                compared.append(await self._compare(backend, kek_id))
        self._compared = tuple(one for one in compared if one)
        refused = list(dict.fromkeys(refused))
        self.in_rows = tuple(kek_id for kek_id, by_rows in in_use.items() if by_rows)
        self._report((*refused, *unreadable(self._keyring, self.in_rows)))
        if refused:
            raise Misconfigured("; ".join(refused))

    async def record(self) -> None:
        """Record, and seal, what :meth:`compare` has found to be right.

        With a sealer that has no data key open, nothing is written; it is tried again.

        Raises:
            Misconfigured: another instance has recorded other key material, or it is retired.
            DatabaseError: the database can't be asked now.
        """
        refused: list[str] = []
        for one in self._compared:
            async with _kept(refused):
                await self._record(one)
        if refused:
            self._report(tuple(dict.fromkeys((*refused, *self._problems))))
            raise Misconfigured("; ".join(refused))
        if self._compared:
            await tell_what_is_known(
                self._engine, self._keyring.keks, self._sealer, legacy=self._legacy
            )

    async def admit(self, kek_id: str) -> None:
        """Make sure that a wrap under this kek_id may be stored; cheap where that is known.

        Raises:
            Misconfigured: other key material is recorded under it, or it is retired.
            KekError: the KMS can't be asked now, or no data key is open.
            DatabaseError: the database can't be asked now.
        """
        backend = self._keyring.find(kek_id)
        if backend is None:
            raise Misconfigured(f"no configured KEK holds {kek_id}")
        if backend not in self._keyring.keks:
            return  # a data key: the database has its record, or refuses what it wraps
        one = await self._compare(backend, kek_id)
        if one and not await self._record(one) and not one.on_record:
            raise Transient(
                f"KEK {backend.uri.text}: {kek_id} can't be recorded while no data key is open"
            )

    def _held(self, in_use: Iterable[str]) -> Iterator[tuple[KekBackend, str]]:
        for backend in self._keyring.keks:
            if backend.kek_id is None:
                continue
            for kek_id in {backend.kek_id} | {used for used in in_use if backend.holds(used)}:
                # Else nothing can be said of it now; it was recorded while it wrapped.
                if kek_id == backend.kek_id or backend.fingerprint(kek_id) is not None:
                    yield backend, kek_id

    async def _compare(self, backend: KekBackend, kek_id: str) -> "_Compared | None":
        """Compare one KEK, unless that was done and recorded before."""
        # Read once: a KMS may answer otherwise in the next moment. Where nothing of the material
        # can be seen, the id that the KMS gave stands for it.
        fingerprint = backend.fingerprint(kek_id) or kek_id
        active = self._is_active(backend, kek_id)
        if self._admitted.get(kek_id) == fingerprint and (not active or kek_id == self._active):
            return None
        on_record = await compare(self._engine, backend, kek_id, fingerprint, self._sealer)
        return _Compared(backend, kek_id, fingerprint, on_record)

    async def _record(self, one: "_Compared") -> bool:
        """Record one KEK; say whether it was done: not while no data key is open."""
        backend, kek_id, scheme = one.backend, one.kek_id, one.backend.uri.scheme
        seal = None
        if self._sealer is not None:
            seal = seal_of(self._sealer, kek_id, scheme, one.fingerprint)
            if seal is None:
                return False
        active = self._is_active(backend, kek_id)
        parameters = kek_id, scheme, backend.uri.key_text, one.fingerprint, seal, active
        async with transaction(self._engine, _REGISTER_SECONDS) as connection:
            (recorded,) = await connection.fetch(query("register_kek"), *parameters)
        # Another instance may have recorded another one first: then we are wrong.
        refuse_other_material(backend, kek_id, one.fingerprint, recorded, self._sealer)
        if active:
            if recorded["state"] == RETIRED:
                raise Misconfigured(retired(backend, kek_id, recorded, self._sealer))
            self._active = kek_id
        self._admitted[kek_id] = one.fingerprint
        return True

    def _is_active(self, backend: KekBackend, kek_id: str) -> bool:
        return backend is self._keyring.keks.active and kek_id == backend.kek_id

    async def _retired(self) -> list[str]:
        """Say whether the active KEK was retired under us: then nothing is wrapped any more."""
        active = self._keyring.keks.active
        record = active.kek_id and await read_record(self._engine, active.kek_id)
        if not record or active.kek_id is None or record["state"] != RETIRED:
            return []
        self._admitted.pop(active.kek_id, None)
        return [retired(active, active.kek_id, record, self._sealer)]

    def _doubles(self) -> list[str]:
        """Name two KEKs that have come to share a kek_id, and are not the same key."""
        found = []
        for backend in self._keyring.keks:
            kek_id = backend.kek_id
            other = None if kek_id is None else self._keyring.find(kek_id)
            if kek_id is None or other is None or other is backend:
                continue
            if other.fingerprint(kek_id) != backend.fingerprint(kek_id):
                found.append(
                    f"KEK {backend.uri.text} and KEK {other.uri.text} share the kek_id {kek_id}: "
                    "remove one"
                )
        return found

    def _report(self, problems: tuple[str, ...]) -> None:
        for problem in problems:
            if problem not in self._problems:
                log.error("kek_problem", problem=problem)
        self._problems = problems


@dataclass(frozen=True, slots=True)
class _Compared:
    """A KEK that is right: whether it is on record, and the fingerprint that it had."""

    backend: KekBackend
    kek_id: str
    fingerprint: str
    on_record: bool


@asynccontextmanager
async def _kept(refused: list[str]) -> AsyncIterator[None]:
    """Keep what is refused in a block, and go on."""
    try:
        yield
    except Misconfigured as error:
        refused.append(str(error))
    except KekError:
        # The KMS can't prove it now. It is checked again, and before it wraps anyway.
        return


async def is_retired(engine: AsyncEngine, kek_id: str) -> bool:
    """Say whether a kek_id is retired.

    Args:
        engine: connections of a runtime role.
        kek_id: which.
    """
    record = await read_record(engine, kek_id)
    return record is not None and bool(record["state"] == RETIRED)
