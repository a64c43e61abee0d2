"""What ``custody doctor`` says of the configured KEKs; changes nothing."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.keks.census import kek_ids_in_use, unreadable
from custody.keks.legacy import advice, count_unsealed, refusal
from custody.keks.plain import in_clear
from custody.keks.proof import (
    RETIRED,
    RecordSealer,
    compare,
    judge,
    read_record,
    refuse_other_material,
    retired,
)
from custody.keks.second import refuse_retired, refuse_same
from custody.keks.trust import tell_what_is_known
from kek_backends.base import KekBackend
from kek_backends.errors import KekError, Transient
from kek_backends.findings import Finding, Verdict
from kek_backends.keyring import Keyring

_TIMEOUT_SECONDS = 10.0


async def examine_keks(keyring: Keyring) -> list[Finding]:
    """Examine each KEK by itself: its key, its rights, whether it binds.

    Args:
        keyring: the configured KEKs.
    """
    findings = []
    for backend in keyring:
        findings += await examine_kek(backend, active=backend is keyring.active)
    return findings


async def examine_kek(backend: KekBackend, *, active: bool) -> list[Finding]:
    """Examine a KEK by itself.

    Args:
        backend: the KEK.
        active: whether it is to wrap.
    """
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            seen = await backend.examine(active=active)
    except (KekError, TimeoutError) as error:
        seen = [_failure(error)]
    if problem := in_clear(backend):
        seen = [Finding(Verdict.FINDING, problem), *seen]
    return [replace(one, part=_part(backend)) for one in seen]


async def examine_second(
    engine: AsyncEngine, keyring: Keyring, backend: KekBackend, sealer: RecordSealer
) -> list[Finding]:
    """Compare the second root with the other KEKs, and with what the database knows of it.

    Args:
        engine: connections of a runtime role.
        keyring: the configured KEKs.
        backend: the KEK of the second root.
        sealer: judges the records.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    part, kek_id = _part(backend), backend.kek_id
    if kek_id is None:
        return []  # its own part says so
    try:
        refuse_same(keyring, backend)
        await refuse_retired(engine, backend, sealer)
    except KekError as error:
        return [replace(_failure(error), part=part)]
    by = "the next custody rewrap run"
    return [one async for one in examine_fingerprint(engine, backend, kek_id, sealer, by)]


async def examine_registry(
    engine: AsyncEngine, keyring: Keyring, sealer: RecordSealer, *, legacy: bool
) -> list[Finding]:
    """Compare the KEKs with what the database knows of them, and with the rows.

    Args:
        engine: connections of a runtime role.
        keyring: all that users' keys are wrapped under.
        sealer: judges the records.
        legacy: whether those that are not sealed count as known.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    await tell_what_is_known(engine, keyring.keks, sealer, legacy=legacy)
    in_use = await kek_ids_in_use(engine)
    in_rows = [kek_id for kek_id, by_rows in in_use.items() if by_rows]
    findings = [Finding(Verdict.FINDING, one, "kek") for one in unreadable(keyring, in_rows)]
    active = keyring.keks.active
    record = active.kek_id and await read_record(engine, active.kek_id)
    if active.kek_id and record and record["state"] == RETIRED:
        message = retired(active, active.kek_id, record, sealer)
        findings.append(Finding(Verdict.FINDING, message, _part(active)))
    for backend in keyring.keks:
        if backend.kek_id is not None:
            used = {used for used in in_use if backend.holds(used)}
            for kek_id in sorted({backend.kek_id} | used):
                findings += [
                    one async for one in examine_fingerprint(engine, backend, kek_id, sealer)
                ]
    return findings


async def examine_rows(engine: AsyncEngine, *, accepted: bool) -> list[Finding]:
    """Say whether rows are not sealed yet, or the door for them is open to no purpose.

    Args:
        engine: connections of a runtime role.
        accepted: whether such rows are read: ``CUSTODY_LEGACY_ROWS=accept``.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    unsealed = await count_unsealed(engine)
    if accepted:
        return [Finding(Verdict.FINDING, advice(unsealed), "rows")]
    if unsealed:
        return [Finding(Verdict.FINDING, refusal(unsealed), "rows")]
    return [Finding(Verdict.OK, "every row is sealed", "rows")]


async def examine_fingerprint(
    engine: AsyncEngine,
    backend: KekBackend,
    kek_id: str,
    sealer: RecordSealer,
    recorded_by: str = "the next boot",
) -> AsyncIterator[Finding]:
    """Compare a KEK with its record.

    Args:
        engine: connections of a runtime role.
        backend: the KEK.
        kek_id: one that it holds.
        sealer: judges the record.
        recorded_by: what records one that is not on record.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    part, fingerprint = _part(backend), backend.fingerprint(kek_id)
    if fingerprint is None:
        return
    record = await read_record(engine, kek_id)
    if record is not None and record["fingerprint"] is None:
        record = None  # of a retirement alone
    if record is not None and judge(sealer, kek_id, record) is False:
        yield replace(_doubtful(kek_id, is_same=record["fingerprint"] == fingerprint), part=part)
        return
    try:
        if record is not None:
            refuse_other_material(backend, kek_id, fingerprint, record, sealer)
        else:
            await compare(engine, backend, kek_id, fingerprint)
    except KekError as error:
        yield replace(_failure(error), part=part)
        return
    if record is not None:
        message = f"its fingerprint is the one recorded for {kek_id}"
        yield Finding(Verdict.OK, message, part)
        return
    message = f"no fingerprint is recorded for {kek_id} yet; {recorded_by} does it"
    yield Finding(Verdict.UNSEEN, message, part)


def _doubtful(kek_id: str, *, is_same: bool) -> Finding:
    """Say of a record that no data key vouches for it: it counts as none."""
    if is_same:
        message = f"the record of {kek_id} is not sealed yet; the next boot does it"
        return Finding(Verdict.UNSEEN, message)
    message = (
        f"the record of {kek_id} names other key material, and its seal does not hold: the next "
        "boot replaces it; find out who writes to the database"
    )
    return Finding(Verdict.FINDING, message)


def _part(backend: KekBackend) -> str:
    return f"kek {backend.uri.text}"


def _failure(error: KekError | TimeoutError) -> Finding:
    down = isinstance(error, Transient | TimeoutError)
    message = str(error) or "no answer in time"
    return Finding(Verdict.DOWN if down else Verdict.FINDING, message)
