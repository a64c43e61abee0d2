"""Connections: a bounded pool of asyncpg connections, kept by SQLAlchemy."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from custody.db.errors import Refused
from custody.db.pooler import Statements

Connection: TypeAlias = "asyncpg.Connection[Any]"

POOL_SIZE = 16
RESERVED_CONNECTIONS = 2
CONNECT_TIMEOUT_SECONDS = 3.0
CHECKOUT_TIMEOUT_SECONDS = 3.0
# Callers are bound by their own deadlines; this bounds what the pool itself asks a new connection.
STATEMENT_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Dsn:
    """A database URL; it holds a password, so its repr shows nothing."""

    url: str

    def __repr__(self) -> str:
        return "Dsn(…)"


def create_engine(
    dsn: Dsn, *, pool_size: int = POOL_SIZE, variable: str = "CUSTODY_DATABASE_URL"
) -> AsyncEngine:
    """Return an engine whose pool holds at most ``pool_size`` connections.

    asyncpg parses the URL itself, so all that libpq's URLs know works: several hosts, sslmode,
    target_session_attrs, passfile.

    Args:
        dsn: ``postgresql://user:password@host:port/database``.
        pool_size: connections; a request beyond them waits three seconds at most.
        variable: which setting the URL is, for messages.
    """

    async def connect(cached_statements: int) -> Connection:
        try:
            return await asyncpg.connect(
                dsn.url,
                timeout=CONNECT_TIMEOUT_SECONDS,
                command_timeout=STATEMENT_TIMEOUT_SECONDS,
                server_settings={"application_name": "custody"},
                statement_cache_size=cached_statements,
            )
        except (
            asyncpg.InvalidAuthorizationSpecificationError,
            asyncpg.InvalidCatalogNameError,
            asyncpg.InsufficientPrivilegeError,
        ) as e:
            # Waiting would not help: it is up, and this URL is not one for it.
            raise Refused(f"{variable}: {e.message}; correct the URL") from None
        except (asyncpg.ClientConfigurationError, ValueError):
            # Their text may quote the URL.
            raise Refused(f"{variable}: the URL can't be used as it is; correct it") from None

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=Statements(connect, variable).open,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=CHECKOUT_TIMEOUT_SECONDS,
        pool_use_lifo=True,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return engine


def _refuse_closed(dbapi_connection: Any, _record: Any, _proxy: Any) -> None:
    """Have the pool replace a connection that the server has closed; asks no question over it."""
    if dbapi_connection.driver_connection.is_closed():
        raise DisconnectionError
