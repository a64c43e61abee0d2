"""The drill: whether the second root alone opens every data key; changes nothing."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.datakeys.errors import DataKeyUnavailable, NoSuchDataKey
from custody.datakeys.records import Record, open_record, read_records
from custody.datakeys.ring import Ring
from custody.datakeys.sealer import Sealer
from custody.keks.diagnostics import examine_fingerprint
from kek_backends.base import KekBackend
from kek_backends.errors import Transient
from kek_backends.findings import Verdict
from kek_backends.keyring import Keyring

# A KMS gives up by itself before; a backend of others may not.
_REFRESH_SECONDS = 10.0


def _uncounted(_total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _count: None)


@dataclass(frozen=True, slots=True)
class DrilledKey:
    """A data key, as the second root alone has it.

    Args:
        id: of its record, which may be anybody's.
        problem: why it does not open, with the cure; None: it does.
        waits: whether its KMS did not say.
    """

    id: str
    problem: str | None = None
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Drilled:
    """What a drill has found.

    Args:
        kek_id: of the second root.
        keys: the data keys, the oldest first.
        problems: what else is wrong, each in one line with its cure.
    """

    kek_id: str | None
    keys: tuple[DrilledKey, ...]
    problems: tuple[str, ...]

    @property
    def opened(self) -> int:
        """How many data keys it opens."""
        return sum(key.problem is None for key in self.keys)

    @property
    def is_success(self) -> bool:
        """Whether it opens all of them, and nothing else is wrong."""
        return self.opened == len(self.keys) and not self.problems

    @property
    def only_waits(self) -> bool:
        """Whether nothing is wrong but that its KMS did not say."""
        return not self.problems and all(key.waits for key in self.keys if key.problem)


async def drill(
    engine: AsyncEngine,
    backend: KekBackend,
    ring: Ring,
    counted: Callable[[int], AbstractContextManager[Callable[[int], None]]] = _uncounted,
) -> Drilled:
    """Open every data key with one KEK alone, and compare that with the registry.

    Args:
        engine: connections of a runtime role.
        backend: the KEK of the second root.
        ring: data keys that it alone has to open: they judge its record.
        counted: shows, of so many data keys, how many were tried.

    Raises:
        KekError: it can't be asked now, or not with this configuration.
        DatabaseError: the database can't be asked now.
    """
    try:
        async with asyncio.timeout(_REFRESH_SECONDS):
            await backend.refresh()
    except TimeoutError:
        raise Transient(f"{backend.uri.text}: no answer in time") from None
    records = await read_records(engine)
    keys = []
    with counted(len(records)) as advance:
        for record in records:
            keys.append(await _drilled(backend, record))
            advance(1)
    problems: tuple[str, ...] = (
        () if keys else ("there is no data key; the first boot of a daemon makes it",)
    )
    problems += await _registry(engine, backend, ring, records)
    return Drilled(backend.kek_id, tuple(keys), problems)


async def _drilled(backend: KekBackend, record: Record) -> DrilledKey:
    forget = f"or, if the record is not yours: custody kek forget {record.id}"
    if record.is_lost:
        return DrilledKey(record.id, f"it is marked as lost: restore its record; {forget}")
    own = tuple(wrap for wrap in record.wraps if backend.holds(wrap.kek_id))
    if not own:
        uri = backend.uri.text
        return DrilledKey(record.id, f"it has no wrap under {uri}: custody rewrap run; {forget}")
    try:
        await open_record(Keyring(backend), replace(record, wraps=own))
    except DataKeyUnavailable as error:
        return DrilledKey(record.id, str(error), waits=True)
    except NoSuchDataKey:
        under = ", ".join(wrap.kek_id for wrap in own)
        problem = f"it does not open under {under}: custody rewrap run makes another wrap"
        return DrilledKey(record.id, f"{problem}; {forget}")
    return DrilledKey(record.id)


async def _registry(
    engine: AsyncEngine, backend: KekBackend, ring: Ring, records: tuple[Record, ...]
) -> tuple[str, ...]:
    """Say where the KEK is not the one that is on record for its kek_ids."""
    await ring.load()
    kek_ids = {wrap.kek_id for record in records for wrap in record.wraps}
    own = {kek_id for kek_id in kek_ids if backend.holds(kek_id)}
    if backend.kek_id is not None:
        own.add(backend.kek_id)
    return tuple(
        [
            finding.message
            for kek_id in sorted(own)
            async for finding in examine_fingerprint(engine, backend, kek_id, Sealer(ring))
            if finding.verdict is Verdict.FINDING
        ]
    )
