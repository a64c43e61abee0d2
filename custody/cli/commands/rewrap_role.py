"""The connections of the commands that count, move or retire: by CUSTODY_REWRAP_DATABASE_URL.

Those that only read do with CUSTODY_DATABASE_URL where that is not set.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.engine import Dsn
from custody.db.posture import safe_engine
from custody.settings import ConfigurationError, Settings

VARIABLE = "CUSTODY_REWRAP_DATABASE_URL"
_APP = "CUSTODY_DATABASE_URL"


def rewrap_dsn(settings: Settings) -> Dsn:
    """Return the URL of the role for re-wraps.

    Raises:
        ConfigurationError: it is not set.
    """
    if settings.rewrap_database_url is None:
        what = Settings.model_fields["rewrap_database_url"].description
        raise ConfigurationError(f"{VARIABLE} must be set: {what}")
    return settings.dsn(settings.rewrap_database_url)


@asynccontextmanager
async def rewrap_engine(settings: Settings, *, pool_size: int = 1) -> AsyncIterator[AsyncEngine]:
    """Connect, once database and role are found safe, and the daemon's where that is set.

    Raises:
        ConfigurationError: the URL is not set.
        Refused, DatabaseError: as :func:`custody.db.posture.safe_engine`.
    """
    dsn, daemon = rewrap_dsn(settings), settings.database_url
    beside = None if daemon is None else settings.dsn(daemon)
    async with safe_engine(
        dsn, "custody_rewrap", variable=VARIABLE, pool_size=pool_size, beside=beside
    ) as engine:
        yield engine


@asynccontextmanager
async def reading_engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """Connect as a runtime role: as one that sees all rows, where there is one.

    Raises:
        ConfigurationError: there is no URL.
        Refused, DatabaseError: as :func:`custody.db.posture.safe_engine`.
    """
    if settings.rewrap_database_url is not None:
        async with rewrap_engine(settings) as engine:
            yield engine
        return
    if settings.database_url is None:
        raise ConfigurationError(f"{VARIABLE} or {_APP} must be set: PostgreSQL, as a runtime role")
    dsn = settings.dsn(settings.database_url)
    async with safe_engine(dsn, "custody_app", variable=_APP) as engine:
        yield engine
