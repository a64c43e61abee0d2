"""Examines what is configured, without changing anything."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.auth.jwk import JwksError, doubled_kids
from custody.auth.jwks import document_from, keys_of
from custody.auth.sources import Source, file_source
from custody.db.advice import advise
from custody.db.engine import Dsn, create_engine
from custody.db.errors import DatabaseError, Refused
from custody.db.posture import find_problems, refuse_unfit_rewrap
from custody.keks.registry import compare, is_retired, kek_ids_in_use, retired, unreadable
from custody.ops import preflight
from custody.settings import ConfigurationError, Settings, load
from kek_backends.base import KekBackend
from kek_backends.errors import KekError, Misconfigured, Transient
from kek_backends.keyring import Keyring
from kek_backends.loader import load_keyring

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
    found = preflight.remarks(settings, environ)
    findings = [Finding(one.part, Verdict.FINDING, one.message) for one in found]
    return findings or [Finding("settings", Verdict.OK, f"{settings.env} mode")]


async def _examine_issuer(settings: Settings) -> list[Finding]:
    if settings.jwks_file is None and settings.jwks_url is None:
        return []  # said already, of the settings
    fetch, source = _issuer_keys(settings)
    # A file's faults stop the daemon; an issuer may be down for a while.
    prefix = "CUSTODY_JWKS_FILE: " if settings.jwks_file else ""
    try:
        document = await document_from(fetch, source)
    except JwksError as error:
        verdict = Verdict.FINDING if settings.jwks_file else Verdict.DOWN
        return [Finding("jwks", verdict, f"{prefix}{error}")]
    try:
        keys = keys_of(document, source)
    except JwksError as error:
        return [Finding("jwks", Verdict.FINDING, f"{prefix}{error}")]
    if doubled := doubled_kids(document):
        message = (
            f"two different keys of {source} have one kid ({', '.join(doubled)}): neither is used, "
            "and their tokens are refused; have the issuer give each key a kid of its own"
        )
        return [Finding("jwks", Verdict.FINDING, message)]
    return [Finding("jwks", Verdict.OK, f"{len(keys)} usable keys")]


def _issuer_keys(settings: Settings) -> Source:
    if settings.jwks_file is not None:
        return file_source(settings.jwks_file), str(settings.jwks_file)
    # A JWKS in a file needs no HTTP client, and no command waits for the import of one.
    from custody.auth.http_source import fetch_once, name_of  # noqa: PLC0415

    url = preflight.jwks_url(settings)
    return partial(fetch_once, url), name_of(url)


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
        findings += await _examine_advice(engine)
        findings += await _examine_rewrap(settings, engine)
        if keyring is not None:
            findings += await _examine_registry(engine, keyring)
    except Refused as error:
        return [Finding("database", Verdict.FINDING, str(error))]
    except DatabaseError as error:
        return [Finding("database", Verdict.DOWN, str(error))]
    finally:
        await engine.dispose()
    return findings


async def _examine_advice(engine: AsyncEngine) -> list[Finding]:
    try:
        advice = await advise(engine)
    except DatabaseError as error:
        return [Finding("database", Verdict.UNSEEN, f"what would be wiser was not seen: {error}")]
    return [
        Finding(one.part, Verdict.FINDING if one.is_problem else Verdict.OK, one.message)
        for one in advice
    ]


async def _examine_rewrap(settings: Settings, app: AsyncEngine) -> list[Finding]:
    if settings.rewrap_database_url is None:
        return []
    dsn = Dsn(settings.rewrap_database_url.get_secret_value())
    engine = create_engine(dsn, pool_size=1, variable="CUSTODY_REWRAP_DATABASE_URL")
    try:
        await refuse_unfit_rewrap(engine, app)
    except Refused as error:
        return [Finding("rewrap", Verdict.FINDING, str(error))]
    except DatabaseError as error:
        return [Finding("rewrap", Verdict.DOWN, str(error))]
    finally:
        await engine.dispose()
    return [Finding("rewrap", Verdict.OK, "the role for re-wraps is of the same database")]


async def _examine_registry(engine: AsyncEngine, keyring: Keyring) -> list[Finding]:
    in_use = await kek_ids_in_use(engine)
    findings = [Finding("kek", Verdict.FINDING, problem) for problem in unreadable(keyring, in_use)]
    active = keyring.active
    if active.kek_id is not None and await is_retired(engine, active.kek_id):
        message = retired(active, active.kek_id)
        findings.append(Finding(f"kek {active.uri.text}", Verdict.FINDING, message))
    for backend in keyring:
        theirs = {used for used in in_use if backend.holds(used)}
        if backend.kek_id is not None:
            for kek_id in sorted({backend.kek_id} | theirs):
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
