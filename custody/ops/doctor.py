"""Examines what is configured, without changing anything.

What is found is plain data, so the command line prints it, and whoever else likes may show it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.datakeys.diagnostics import examine_data_keys
from custody.datakeys.envelope import UserKeyring
from custody.datakeys.ring import Ring
from custody.datakeys.sealer import Sealer
from custody.db.engine import open_engine
from custody.db.errors import DatabaseError
from custody.keks.diagnostics import (
    examine_kek,
    examine_keks,
    examine_registry,
    examine_rows,
    examine_second,
)
from custody.keks.instances import live
from custody.keks.keks import load_keks
from custody.keks.second import load_second
from custody.ops import preflight
from custody.ops.checks.certificate import examine_certificate
from custody.ops.checks.clock import examine_database_clock
from custody.ops.checks.database import (
    examine_advice,
    examine_dumpers,
    examine_erasures,
    examine_posture,
    examine_rewrap_role,
    examine_way,
    failure,
)
from custody.ops.checks.files import secret_files
from custody.ops.checks.issuer import examine_issuer
from custody.ops.checks.memory import examine_daemons, examine_this_process
from custody.ops.checks.routine import (
    examine_drill,
    examine_rotations,
    examine_routine,
    examine_seals,
)
from custody.settings import ConfigurationError, Settings, load
from kek_backends.base import KekBackend
from kek_backends.findings import Finding, Verdict
from kek_backends.keyring import Keyring

# What waits has limits of its own; this is for what hangs all the same.
_CHECK_SECONDS = 30.0
# How our messages say that a command follows.
_RUN = "; run: "


async def examine(environ: Mapping[str, str]) -> list[Finding]:
    """Examine everything that the variables configure.

    Args:
        environ: the variables of the process.
    """
    return [_with_cure(one) for one in await _examine(environ)]


async def _examine(environ: Mapping[str, str]) -> list[Finding]:
    try:
        settings = load(environ)
    except ConfigurationError as error:
        return [Finding(Verdict.FINDING, str(error), "settings")]
    findings = _examine_settings(settings, environ)
    findings += await _within("jwks", _examine_issuer(settings))
    try:
        keyring = load_keks(settings, environ)
    except ConfigurationError as error:
        findings.append(Finding(Verdict.FINDING, str(error), "kek"))
        return findings + await _examine_database(settings, environ, None)
    try:
        findings += await _within("kek", examine_keks(keyring))
        async with _second_root(settings, environ, keyring, findings) as second:
            return findings + await _examine_database(settings, environ, keyring, second)
    finally:
        await keyring.close()


def _with_cure(finding: Finding) -> Finding:
    """Give a finding whose message ends in a command that as its cure, too."""
    cure = finding.message.partition(_RUN)[2]
    return replace(finding, cure=cure) if cure and not finding.cure else finding


async def _within(part: str, work: Awaitable[list[Finding]]) -> list[Finding]:
    """Do one check; that nothing came of it in time, or by the database, is a finding."""
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await work
    except TimeoutError:
        message = f"it was not seen: no answer within {_CHECK_SECONDS:.0f} seconds"
        return [Finding(Verdict.DOWN, message, part)]
    except DatabaseError as error:
        return [failure(error, part)]


@asynccontextmanager
async def _second_root(
    settings: Settings, environ: Mapping[str, str], keyring: Keyring, findings: list[Finding]
) -> AsyncIterator[KekBackend | None]:
    """Load the second root, and examine it: it must wrap, and open what it wraps."""
    try:
        second = load_second(settings, environ, keyring)
    except ConfigurationError as error:
        findings.append(Finding(Verdict.FINDING, str(error), "kek"))
        second = None
    if second is None:
        yield None
        return
    try:
        findings += await _within("kek", examine_kek(second, active=True))
        findings.append(examine_drill())
        yield second
    finally:
        await second.close()


def _examine_settings(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    found = preflight.remarks(settings, environ)
    findings = [Finding(Verdict.FINDING, one.message, one.part) for one in found]
    findings = findings or [Finding(Verdict.OK, f"{settings.env} mode", "settings")]
    findings += _examine_files(settings, environ)
    findings += examine_this_process()
    if settings.tls_cert is not None and settings.tls_key is not None:
        findings += examine_certificate(settings.tls_cert, settings.tls_key)
    return findings


def _examine_files(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """Say how many files with secrets were looked at; of settings it is said what is wrong."""
    if not (count := sum(1 for _ in secret_files(settings, environ))):
        return []
    if os.geteuid() == 0 and not settings.development:
        message = (
            f"the modes of {count} files with secrets were looked at; whether the daemon's user "
            "can read them was not: root can read all; look as that user"
        )
        return [Finding(Verdict.UNSEEN, message, "files", "custody-admin doctor")]
    return [Finding(Verdict.OK, f"{count} files with secrets were looked at", "files")]


async def _examine_issuer(settings: Settings) -> list[Finding]:
    try:
        preflight.require_jwks(settings)
    except ConfigurationError:
        return []  # it is said of the settings
    return (await examine_issuer(settings))[0]


async def _examine_database(
    settings: Settings,
    environ: Mapping[str, str],
    keyring: Keyring | None,
    second: KekBackend | None = None,
) -> list[Finding]:
    if settings.database_url is None:
        message = "CUSTODY_DATABASE_URL is not set: database, roles and fingerprints were not seen"
        return [Finding(Verdict.UNSEEN, message, "database")]
    dsn = settings.dsn(settings.database_url)
    try:
        async with open_engine(dsn, pool_size=1) as engine:
            findings = await _within("database", examine_posture(engine))
            if any(one.verdict is not Verdict.OK for one in findings):
                return findings
            findings += examine_way(settings, environ)
            return findings + await _examine_contents(settings, engine, keyring, second)
    except DatabaseError as error:
        return [failure(error, "database")]


async def _examine_contents(
    settings: Settings, engine: AsyncEngine, keyring: Keyring | None, second: KekBackend | None
) -> list[Finding]:
    """Examine a database whose posture is right."""
    active = None if keyring is None else keyring.active
    checks = {
        "database": (partial(examine_advice, engine), partial(_examine_clock, engine)),
        "erasures": (partial(examine_erasures, settings, engine),),
        "backup": (partial(examine_dumpers, engine),),
        "rewrap": (partial(examine_rewrap_role, settings, engine),),
        "rows": (partial(examine_rows, engine, accepted=settings.accepts_legacy_rows),),
        "audit": (partial(_examine_seals, engine, settings),),
        "rewrap run": (partial(examine_routine, engine, settings, active),),
        "rotations": (partial(examine_rotations, engine),),
        "memory": (partial(_examine_daemons, engine),),
    }
    findings = [
        one
        for part, some in checks.items()
        for check in some
        for one in await _within(part, check())
    ]
    if keyring is not None:
        findings += await _within("data-key", _examine_records(settings, engine, keyring, second))
    return findings


async def _examine_clock(engine: AsyncEngine) -> list[Finding]:
    return [await examine_database_clock(engine)]


async def _examine_seals(engine: AsyncEngine, settings: Settings) -> list[Finding]:
    return [await examine_seals(engine, settings)]


async def _examine_daemons(engine: AsyncEngine) -> list[Finding]:
    return examine_daemons(await live(engine))


async def _examine_records(
    settings: Settings, engine: AsyncEngine, keyring: Keyring, second: KekBackend | None
) -> list[Finding]:
    """Examine what is recorded of data keys and KEKs: each opens, or vouches for, the other."""
    ring = Ring(engine, keyring, settings.data_key_ttl, settings.data_key_max_age)
    findings = await examine_data_keys(engine, keyring, ring, second)
    legacy = settings.accepts_legacy_rows
    users = UserKeyring(keyring, ring)
    findings += await examine_registry(engine, users, Sealer(ring), legacy=legacy)
    if second is not None:
        findings += await examine_second(engine, keyring, second, Sealer(ring))
    return findings
