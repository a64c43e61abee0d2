"""Examines what is configured, without changing anything."""

import asyncio
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.auth.jwk import JwksError, parse_jwks
from custody.auth.sources import file_source
from custody.db.engine import Dsn, create_engine
from custody.db.errors import DatabaseError, Refused
from custody.db.posture import find_problems
from custody.db.queries import query
from custody.db.scope import transaction
from custody.settings import ConfigurationError, Settings, load, unknown_names
from custody.vault.registry import compare, is_retired, kek_ids_in_use, retired, unreadable
from kek_backends.base import KekBackend
from kek_backends.errors import KekError, Misconfigured, Transient
from kek_backends.keyring import Keyring
from kek_backends.loader import load_keyring

_OTHERS = 0o077
_TIMEOUT_SECONDS = 10.0


class Verdict(StrEnum):
    """What an examination found."""

    OK = "ok"
    FINDING = "finding"
    DOWN = "down"
    UNSEEN = "unseen"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result.

    Args:
        part: what was examined.
        verdict: how it is.
        message: in one line; for a finding with its cure.
    """

    part: str
    verdict: Verdict
    message: str


async def examine(environ: Mapping[str, str]) -> list[Finding]:
    """Examine everything that the variables configure.

    Args:
        environ: the variables of the process.
    """
    try:
        settings = load(environ)
    except ConfigurationError as error:
        return [Finding("settings", Verdict.FINDING, str(error))]
    findings = _examine_settings(settings, environ)
    findings += await _examine_issuer(settings)
    keyring: Keyring | None = None
    try:
        keyring = load_keyring(
            settings.kek, settings.old_keks, environ=environ, development=settings.development
        )
    except Misconfigured as error:
        findings.append(Finding("kek", Verdict.FINDING, str(error)))
    else:
        findings += await _examine_keks(keyring)
    findings += await _examine_database(settings, keyring)
    if keyring is not None:
        await keyring.close()
    return findings


def _examine_settings(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    findings = [
        Finding("settings", Verdict.FINDING, f"{name} is no setting: {hint}")
        for name, hint in unknown_names(environ).items()
    ]
    if settings.jwt_issuer is None:
        message = "CUSTODY_JWT_ISSUER must be set: what a token's iss must be"
        findings.append(Finding("settings", Verdict.FINDING, message))
    if settings.owner_database_url is not None and not settings.development:
        findings.append(
            Finding(
                "settings",
                Verdict.FINDING,
                "CUSTODY_OWNER_DATABASE_URL is set here; the daemon needs no owner: give it to "
                "custody migrate alone",
            )
        )
    keys = {f"{uri.partition(':')[2].partition('?')[0]}_FILE" for uri in _kek_uris(settings)}
    for name, value in environ.items():
        if value and name.endswith("_FILE") and (name.startswith("CUSTODY_") or name in keys):
            findings += _examine_file(name, Path(value))
    return findings or [Finding("settings", Verdict.OK, f"{settings.env} mode")]


def _kek_uris(settings: Settings) -> tuple[str, ...]:
    return (settings.kek, *settings.old_keks)


def _examine_file(name: str, path: Path) -> list[Finding]:
    if name == "CUSTODY_JWKS_FILE":
        return []
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return [Finding("settings", Verdict.FINDING, f"{name} names {path}: {error.strerror}")]
    if mode & _OTHERS:
        message = f"{name} names {path}, which others may use; run: chmod 600 {path}"
        return [Finding("settings", Verdict.FINDING, message)]
    return []


async def _examine_issuer(settings: Settings) -> list[Finding]:
    if settings.jwks_file is None and settings.jwks_url is None:
        message = "set CUSTODY_JWKS_URL or CUSTODY_JWKS_FILE: where the issuer's keys are"
        return [Finding("jwks", Verdict.FINDING, message)]
    findings = []
    if settings.jwks_url and not _is_safe(settings.jwks_url):
        message = f"{settings.jwks_url} is plain http: whoever is on the way can forge tokens"
        findings.append(Finding("jwks", Verdict.FINDING, message))
    try:
        if settings.jwks_file is not None:
            document = await file_source(settings.jwks_file)()
        else:
            document = await _download(settings.jwks_url or "")
    except JwksError as error:
        verdict = Verdict.FINDING if settings.jwks_file else Verdict.DOWN
        return [*findings, Finding("jwks", verdict, str(error))]
    try:
        keys = parse_jwks(document)
    except JwksError as error:
        return [*findings, Finding("jwks", Verdict.FINDING, str(error))]
    return [*findings, Finding("jwks", Verdict.OK, f"{len(keys)} usable keys")]


async def _download(url: str) -> bytes:
    # A JWKS in a file needs no HTTP client, and no command waits for the import of one.
    from custody.auth.http_source import fetch_once  # noqa: PLC0415

    return await fetch_once(url)


def _is_safe(url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _examine_keks(keyring: Keyring) -> list[Finding]:
    findings = []
    for backend in keyring:
        part = f"kek {backend.uri.text}"
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                seen = await backend.examine(active=backend is keyring.active)
        except (Transient, TimeoutError) as error:
            message = str(error) or "no answer in time"
            findings.append(Finding(part, Verdict.DOWN, message))
        except KekError as error:
            findings.append(Finding(part, Verdict.FINDING, str(error)))
        else:
            findings += [Finding(part, Verdict(one.severity), one.message) for one in seen]
    return findings


async def _examine_database(settings: Settings, keyring: Keyring | None) -> list[Finding]:
    if settings.database_url is None:
        message = "CUSTODY_DATABASE_URL is not set: database, roles and fingerprints were not seen"
        return [Finding("database", Verdict.UNSEEN, message)]
    engine = create_engine(Dsn(settings.database_url.get_secret_value()), pool_size=1)
    try:
        problems = await find_problems(engine, "custody_app")
        if problems:
            return [Finding(p.part, Verdict.FINDING, p.message) for p in problems]
        findings = [Finding("database", Verdict.OK, "schema and role keep their promises")]
        findings += await _examine_replication(engine)
        if keyring is not None:
            findings += await _examine_registry(engine, keyring)
    except Refused as error:
        return [Finding("database", Verdict.FINDING, str(error))]
    except DatabaseError as error:
        return [Finding("database", Verdict.DOWN, str(error))]
    finally:
        await engine.dispose()
    return findings


async def _examine_replication(engine: AsyncEngine) -> list[Finding]:
    async with transaction(engine, _TIMEOUT_SECONDS) as held:
        seen = await held.fetchrow(query("read_replication"))
    if seen is None or not seen["waits"]:
        return []
    waits = f"COMMIT waits for standbys (synchronous_standby_names = {seen['names']})"
    if seen["standbys"]:
        return [Finding("replication", Verdict.OK, waits)]
    message = (
        f"{waits}, and none is connected: no key leaves, and changes are answered 503 "
        "OUTCOME_UNKNOWN; bring one back, or take it out of synchronous_standby_names"
    )
    return [Finding("replication", Verdict.FINDING, message)]


async def _examine_registry(engine: AsyncEngine, keyring: Keyring) -> list[Finding]:
    in_use = await kek_ids_in_use(engine)
    findings = [Finding("kek", Verdict.FINDING, problem) for problem in unreadable(keyring, in_use)]
    active = keyring.active
    if active.kek_id is not None and await is_retired(engine, active.kek_id):
        message = retired(active, active.kek_id)
        findings.append(Finding(f"kek {active.uri.text}", Verdict.FINDING, message))
    for backend in keyring:
        held = {used for used in in_use if backend.holds(used)}
        if backend.kek_id is not None:
            for kek_id in sorted({backend.kek_id} | held):
                findings += await _examine_fingerprint(engine, backend, kek_id)
    return findings


async def _examine_fingerprint(
    engine: AsyncEngine, backend: KekBackend, kek_id: str
) -> list[Finding]:
    part, fingerprint = f"kek {backend.uri.text}", backend.fingerprint(kek_id)
    if fingerprint is None:
        return []
    try:
        recorded = await compare(engine, backend, kek_id, fingerprint)
    except Transient as error:
        return [Finding(part, Verdict.DOWN, str(error))]
    except KekError as error:
        return [Finding(part, Verdict.FINDING, str(error))]
    if recorded:
        message = f"its fingerprint is the one recorded for {kek_id}"
        return [Finding(part, Verdict.OK, message)]
    message = f"no fingerprint is recorded for {kek_id} yet; the next boot does it"
    return [Finding(part, Verdict.UNSEEN, message)]
