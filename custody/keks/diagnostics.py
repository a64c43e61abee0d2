"""What ``custody doctor`` says of the configured KEKs; changes nothing."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.keks.legacy import advice, count_unsealed, refusal
from custody.keks.plain import in_clear
from custody.keks.registry import compare, is_retired, kek_ids_in_use, retired, unreadable
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
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                seen = await backend.examine(active=backend is keyring.active)
        except (KekError, TimeoutError) as error:
            seen = [_failure(error)]
        if problem := in_clear(backend):
            seen = [Finding(Verdict.FINDING, problem), *seen]
        findings += [replace(one, part=_part(backend)) for one in seen]
    return findings


async def examine_registry(engine: AsyncEngine, keyring: Keyring) -> list[Finding]:
    """Compare the KEKs with what the database knows of them, and with the rows.

    Args:
        engine: connections of a runtime role.
        keyring: the configured KEKs.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    in_use = await kek_ids_in_use(engine)
    findings = [Finding(Verdict.FINDING, problem, "kek") for problem in unreadable(keyring, in_use)]
    active = keyring.active
    if active.kek_id is not None and await is_retired(engine, active.kek_id):
        findings.append(Finding(Verdict.FINDING, retired(active, active.kek_id), _part(active)))
    for backend in keyring:
        if backend.kek_id is not None:
            used = {used for used in in_use if backend.holds(used)}
            for kek_id in sorted({backend.kek_id} | used):
                findings += [one async for one in _fingerprint(engine, backend, kek_id)]
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
    problem = advice(unsealed) if accepted else refusal(unsealed)
    if problem is None:
        return [Finding(Verdict.OK, "every row is sealed", "rows")]
    return [Finding(Verdict.FINDING, problem, "rows")]


async def _fingerprint(
    engine: AsyncEngine, backend: KekBackend, kek_id: str
) -> AsyncIterator[Finding]:
    part, fingerprint = _part(backend), backend.fingerprint(kek_id)
    if fingerprint is None:
        return
    try:
        recorded = await compare(engine, backend, kek_id, fingerprint)
    except KekError as error:
        yield replace(_failure(error), part=part)
        return
    if recorded:
        message = f"its fingerprint is the one recorded for {kek_id}"
        yield Finding(Verdict.OK, message, part)
        return
    message = f"no fingerprint is recorded for {kek_id} yet; the next boot does it"
    yield Finding(Verdict.UNSEEN, message, part)


def _part(backend: KekBackend) -> str:
    return f"kek {backend.uri.text}"


def _failure(error: KekError | TimeoutError) -> Finding:
    down = isinstance(error, Transient | TimeoutError)
    message = str(error) or "no answer in time"
    return Finding(Verdict.DOWN if down else Verdict.FINDING, message)
