"""The connections of the commands that read the whole audit, and the data keys that judge it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit.reading import Reader
from custody.datakeys.envelope import UserKeyring
from custody.datakeys.ring import Ring
from custody.db.engine import open_engine
from custody.keks.keks import loaded_keks
from custody.settings import ConfigurationError, Settings
from custody.verify.rows import RowReader
from kek_backends.keyring import Keyring

_VARIABLE = "CUSTODY_AUDIT_DATABASE_URL"
_OWNER = "CUSTODY_OWNER_DATABASE_URL"


@asynccontextmanager
async def audit_reader(settings: Settings) -> AsyncIterator[tuple[Reader, Ring]]:
    """Connect, and open the data keys that can be opened.

    Raises:
        ConfigurationError: there is no URL, or a KEK is not configured as it must be.
        Refused, DatabaseError: as :meth:`custody.audit.reading.Reader.check`.
    """
    _url_of(settings)
    async with (
        loaded_keks(settings, os.environ) as keyring,
        _connected(settings, *_url_of(settings)) as (reader, engine),
    ):
        yield reader, await _loaded(settings, engine, keyring)


class AllReaders(NamedTuple):
    """What a verification of rows and audit needs.

    Args:
        engine: connections of a role that reads both.
        audit: reads the audit.
        keyring: all that users' keys are wrapped under.
        ring: the data keys, not loaded.
    """

    engine: AsyncEngine
    audit: Reader
    keyring: UserKeyring
    ring: Ring


@asynccontextmanager
async def all_readers(settings: Settings) -> AsyncIterator[AllReaders]:
    """Connect as a role that may verify rows; no KMS is asked yet, and no data key opened.

    Raises:
        ConfigurationError, Refused, DatabaseError: as :func:`audit_reader`; or the role may not
            read the wraps of all rows.
    """
    variable, _ = _url_of(settings)
    async with (
        loaded_keks(settings, os.environ) as keks,
        _connected(settings, *_url_of(settings)) as (reader, engine),
    ):
        await RowReader(engine).check(variable)
        ring = Ring(engine, keks, settings.data_key_ttl, settings.data_key_max_age)
        yield AllReaders(engine, reader, UserKeyring(keks, ring), ring)


@asynccontextmanager
async def unseen_reader(settings: Settings) -> AsyncIterator[tuple[Reader, str]]:
    """Make what would connect, for who waits until it can; with the name of the URL's setting.

    Raises:
        ConfigurationError: there is no URL.
    """
    variable, url = _url_of(settings)
    async with open_engine(settings.dsn(url), pool_size=1, variable=variable) as engine:
        yield Reader(engine), variable


@asynccontextmanager
async def rows_reader(settings: Settings) -> AsyncIterator[Reader]:
    """Connect, for who judges nothing and needs no key.

    Raises:
        ConfigurationError: there is no URL.
        Refused, DatabaseError: as :meth:`custody.audit.reading.Reader.check`.
    """
    async with _connected(settings, *_url_of(settings)) as (reader, _):
        yield reader


@asynccontextmanager
async def audit_owner(settings: Settings) -> AsyncIterator[tuple[Reader, AsyncEngine, Ring]]:
    """Connect as the owner of the schema, and open the data keys that can be opened.

    Raises:
        ConfigurationError: there is no URL, or a KEK is not configured as it must be.
        Refused, DatabaseError: as :meth:`custody.audit.reading.Reader.check`.
    """
    _owner_of(settings)
    async with (
        loaded_keks(settings, os.environ) as keyring,
        rows_owner(settings) as (reader, engine),
    ):
        yield reader, engine, await _loaded(settings, engine, keyring)


@asynccontextmanager
async def rows_owner(settings: Settings) -> AsyncIterator[tuple[Reader, AsyncEngine]]:
    """Connect as the owner of the schema, for who needs no key.

    Raises:
        ConfigurationError: there is no URL.
        Refused, DatabaseError: as :meth:`custody.audit.reading.Reader.check`.
    """
    async with _connected(settings, *_owner_of(settings)) as connected:
        yield connected


@asynccontextmanager
async def _connected(
    settings: Settings, variable: str, url: SecretStr
) -> AsyncIterator[tuple[Reader, AsyncEngine]]:
    async with open_engine(settings.dsn(url), pool_size=1, variable=variable) as engine:
        reader = Reader(engine)
        await reader.check(variable)
        yield reader, engine


async def _loaded(settings: Settings, engine: AsyncEngine, keyring: Keyring) -> Ring:
    ring = Ring(engine, keyring, settings.data_key_ttl, settings.data_key_max_age)
    await ring.load()
    return ring


def _owner_of(settings: Settings) -> tuple[str, SecretStr]:
    if settings.owner_database_url is None:
        raise ConfigurationError(
            f"{_OWNER} must be set: PostgreSQL, as the owner of the schema auth"
        )
    return _OWNER, settings.owner_database_url


def _url_of(settings: Settings) -> tuple[str, SecretStr]:
    if settings.audit_database_url is not None:
        return _VARIABLE, settings.audit_database_url
    if settings.owner_database_url is not None:
        return _OWNER, settings.owner_database_url
    raise ConfigurationError(
        f"{_VARIABLE} must be set: PostgreSQL, as a role that reads the whole audit"
    )
