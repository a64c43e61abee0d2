"""Examines what is configured, without changing anything."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.auth.jwk import NO_KEY, JwksError, VerificationKey, doubled_kids
from custody.auth.jwks import document_from, keys_of
from custody.auth.sources import Source, file_source
from custody.datakeys.diagnostics import examine_data_keys
from custody.datakeys.envelope import UserKeyring
from custody.datakeys.ring import Ring
from custody.datakeys.sealer import Sealer
from custody.db.advice import advise, dumpers
from custody.db.engine import open_engine
from custody.db.erasure_record import RecordError, read_record
from custody.db.erasures import describe, find_due
from custody.db.errors import DatabaseError, Refused
from custody.db.posture import find_problems, refuse_unfit_rewrap
from custody.db.scope import transaction
from custody.keks.diagnostics import (
    examine_kek,
    examine_keks,
    examine_registry,
    examine_rows,
    examine_second,
)
from custody.keks.keks import load_keks
from custody.keks.second import load_second
from custody.ops import preflight
from custody.settings import ConfigurationError, Settings, load
from kek_backends.base import KekBackend
from kek_backends.findings import Finding, Verdict
from kek_backends.keyring import Keyring


async def examine(environ: Mapping[str, str]) -> list[Finding]:
    """Examine everything that the variables configure.

    Args:
        environ: the variables of the process.
    """
    try:
        settings = load(environ)
    except ConfigurationError as error:
        return [Finding(Verdict.FINDING, str(error), "settings")]
    findings = _examine_settings(settings, environ)
    findings += await _examine_issuer(settings)
    try:
        keyring = load_keks(settings, environ)
    except ConfigurationError as error:
        findings.append(Finding(Verdict.FINDING, str(error), "kek"))
        return findings + await _examine_database(settings, None)
    try:
        findings += await examine_keks(keyring)
        async with _second_root(settings, environ, keyring, findings) as second:
            return findings + await _examine_database(settings, keyring, second)
    finally:
        await keyring.close()


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
        findings += await examine_kek(second, active=True)
        yield second
    finally:
        await second.close()


def _examine_settings(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    found = preflight.remarks(settings, environ)
    findings = [Finding(Verdict.FINDING, one.message, one.part) for one in found]
    return findings or [Finding(Verdict.OK, f"{settings.env} mode", "settings")]


async def _examine_issuer(settings: Settings) -> list[Finding]:
    try:
        preflight.require_jwks(settings)
    except ConfigurationError:
        return []  # it is said of the settings
    return [(await examine_issuer(settings))[0]]


async def examine_issuer(
    settings: Settings,
) -> tuple[Finding, tuple[VerificationKey, ...] | None]:
    """Examine the issuer's keys; return what was found, and the keys where a JWKS was had.

    Args:
        settings: where they are: a file or a URL is set, and may be asked.
    """
    fetch, source = _issuer_keys(settings)
    # A file's faults stop the daemon; an issuer may be down for a while.
    prefix = "CUSTODY_JWKS_FILE: " if settings.jwks_file else ""
    try:
        document = await document_from(fetch, source)
    except JwksError as error:
        verdict = Verdict.FINDING if settings.jwks_file else Verdict.DOWN
        return Finding(verdict, f"{prefix}{error}", "jwks"), None
    try:
        keys = keys_of(document, source)
    except JwksError as error:
        return Finding(Verdict.FINDING, f"{prefix}{error}", "jwks"), None
    if not keys:
        return Finding(Verdict.FINDING, f"{prefix}JWKS {source} {NO_KEY}", "jwks"), keys
    if doubled := doubled_kids(document):
        message = (
            f"two different keys of {source} have one kid ({', '.join(doubled)}): neither is used, "
            "and their tokens are refused; have the issuer give each key a kid of its own"
        )
        return Finding(Verdict.FINDING, message, "jwks"), keys
    return Finding(Verdict.OK, f"{len(keys)} usable keys", "jwks"), keys


def _issuer_keys(settings: Settings) -> Source:
    if settings.jwks_file is not None:
        return file_source(settings.jwks_file), str(settings.jwks_file)
    # A JWKS in a file needs no HTTP client, and no command waits for the import of one.
    from custody.auth.http_source import fetch_once, name_of  # noqa: PLC0415

    url = preflight.jwks_url(settings)
    return partial(fetch_once, url), name_of(url)


async def _examine_database(
    settings: Settings, keyring: Keyring | None, second: KekBackend | None = None
) -> list[Finding]:
    if settings.database_url is None:
        message = "CUSTODY_DATABASE_URL is not set: database, roles and fingerprints were not seen"
        return [Finding(Verdict.UNSEEN, message, "database")]
    dsn = settings.dsn(settings.database_url)
    try:
        async with open_engine(dsn, pool_size=1) as engine:
            if problems := await find_problems(engine, "custody_app"):
                return [Finding(Verdict.FINDING, one.message, one.part) for one in problems]
            findings = [Finding(Verdict.OK, "schema and role keep their promises", "database")]
            findings += await _examine_advice(engine)
            findings += await _examine_erasures(settings, engine)
            findings.append(_examine_dumpers(await dumpers(engine)))
            findings += await _examine_rewrap(settings, engine)
            accepted = settings.accepts_legacy_rows
            findings += await examine_rows(engine, accepted=accepted)
            if keyring is not None:
                findings += await _examine_records(settings, engine, keyring, second)
            return findings
    except DatabaseError as error:
        return [_failure(error, "database")]


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


async def _examine_advice(engine: AsyncEngine) -> list[Finding]:
    try:
        advice = await advise(engine)
    except DatabaseError as error:
        return [Finding(Verdict.UNSEEN, f"what would be wiser was not seen: {error}", "database")]
    return [
        Finding(Verdict.FINDING if one.is_problem else Verdict.OK, one.message, one.part)
        for one in advice
    ]


async def _examine_erasures(settings: Settings, engine: AsyncEngine) -> list[Finding]:
    if settings.erasure_record is None:
        return []
    try:
        erasures = read_record(settings.erasure_record).erasures
    except RecordError as error:
        return [Finding(Verdict.FINDING, str(error), "erasures")]
    async with transaction(engine) as connection:
        due = await find_due(connection, erasures)
    if due:
        return [Finding(Verdict.FINDING, describe(len(due)), "erasures")]
    message = f"{len(erasures)} on record, each of them made in this database"
    return [Finding(Verdict.OK, message, "erasures")]


def _examine_dumpers(names: tuple[str, ...]) -> Finding:
    """Say who can dump the database; whether anybody does can't be seen from here."""
    if names:
        return Finding(Verdict.OK, f"pg_dump can read all rows as {', '.join(names)}", "backup")
    message = (
        "no role but superusers can dump this database: row-level security is forced, so pg_dump "
        "as its owner fails; run: CREATE ROLE custody_backup LOGIN NOSUPERUSER BYPASSRLS; GRANT "
        "pg_read_all_data TO custody_backup (a physical backup can't be seen from here)"
    )
    return Finding(Verdict.UNSEEN, message, "backup")


async def _examine_rewrap(settings: Settings, app: AsyncEngine) -> list[Finding]:
    if settings.rewrap_database_url is None:
        return []
    dsn = settings.dsn(settings.rewrap_database_url)
    try:
        async with open_engine(dsn, pool_size=1, variable="CUSTODY_REWRAP_DATABASE_URL") as engine:
            await refuse_unfit_rewrap(engine, app)
    except DatabaseError as error:
        return [_failure(error, "rewrap")]
    return [Finding(Verdict.OK, "the role for re-wraps is of the same database", "rewrap")]


def _failure(error: DatabaseError, part: str) -> Finding:
    verdict = Verdict.FINDING if isinstance(error, Refused) else Verdict.DOWN
    return Finding(verdict, str(error), part)
