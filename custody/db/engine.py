"""Connections: a bounded pool of asyncpg connections, kept by SQLAlchemy."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeAlias, cast

from sqlalchemy import QueuePool, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from custody.db.connect import Connection, Manner, Session, connect
from custody.db.dsn import Dsn
from custody.db.pooler import Statements
from custody.db.timelines import Timelines

__all__ = ["Connection", "Dsn", "create_engine"]

POOL_SIZE = 16
RESERVED_CONNECTIONS = 2
CHECKOUT_TIMEOUT_SECONDS = 3.0
# Callers are bound by their own deadlines; this bounds what the pool itself asks a new connection.
STATEMENT_TIMEOUT_SECONDS = 10.0
# The looks at the database end after five seconds: by then each host must have had its turn.
CONNECT_WITHIN_SECONDS = 4.0


# Takes the seconds that a connection was waited for.
Waited: TypeAlias = Callable[[float], None]
_WAITED = "waited"
_TIMELINES = "timelines"


def create_engine(
    dsn: Dsn,
    *,
    pool_size: int = POOL_SIZE,
    variable: str = "CUSTODY_DATABASE_URL",
    waited: Waited = lambda _seconds: None,
) -> AsyncEngine:
    """Return an engine whose pool holds at most ``pool_size`` connections.

    Args:
        dsn: ``postgresql://user:password@host:port/database``.
        pool_size: connections; a request beyond them waits three seconds at most.
        variable: which setting the URL is, for messages.
        waited: called for each connection that is borrowed; must not raise.
    """

    timelines = Timelines()

    async def open_connection(cached_statements: int) -> Connection:
        return await connect(
            dsn,
            Manner(STATEMENT_TIMEOUT_SECONDS, cached_statements, CONNECT_WITHIN_SECONDS),
            variable=variable,
            timelines=timelines,
        )

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=Statements(open_connection, variable).open,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=CHECKOUT_TIMEOUT_SECONDS,
        pool_use_lifo=True,
        hide_parameters=True,
        execution_options={_WAITED: waited, _TIMELINES: timelines},
    )
    event.listen(engine.sync_engine, "checkout", _refuse_ended)
    return engine


@asynccontextmanager
async def open_engine(
    dsn: Dsn,
    *,
    pool_size: int = POOL_SIZE,
    variable: str = "CUSTODY_DATABASE_URL",
    waited: Waited = lambda _seconds: None,
) -> AsyncIterator[AsyncEngine]:
    """Return an engine as :func:`create_engine` for the length of the block, then end it."""
    engine = create_engine(dsn, pool_size=pool_size, variable=variable, waited=waited)
    try:
        yield engine
    finally:
        await engine.dispose()


def waited_by(engine: AsyncEngine) -> Waited:
    """Return what takes how long a connection was waited for; see :func:`create_engine`."""
    waited: Waited = engine.get_execution_options()[_WAITED]
    return waited


def timelines_of(engine: AsyncEngine) -> Timelines:
    """Return what the connections of an engine have seen of primaries; see :func:`create_engine`.

    Args:
        engine: made here.
    """
    timelines: Timelines = engine.get_execution_options()[_TIMELINES]
    return timelines


class PoolUse(NamedTuple):
    """What a pool has.

    Args:
        in_use: connections that somebody has borrowed.
        idle: those that nobody has.
        limit: how many there may be.
    """

    in_use: int
    idle: int
    limit: int


def pool_use(engine: AsyncEngine) -> PoolUse:
    """Return what a pool has now; asks nobody.

    Args:
        engine: made here.
    """
    pool = cast("QueuePool", engine.pool)
    return PoolUse(pool.checkedout(), pool.checkedin(), pool.size())


def on_return(engine: AsyncEngine, call: Callable[[], None]) -> None:
    """Call for each connection that comes back to the pool in good order.

    Args:
        engine: connections of any role.
        call: takes nothing, and must not raise.
    """

    def returned(raw: object, _record: object) -> None:
        if raw is not None:  # else it was thrown away, or never made
            call()

    event.listen(engine.sync_engine, "checkin", returned)


def _refuse_ended(dbapi_connection: Any, _record: Any, _proxy: Any) -> None:
    """Have the pool replace a connection that is of no more use; asks no question over it."""
    connection: Session = dbapi_connection.driver_connection
    if connection.is_closed() or connection.is_demoted:
        raise DisconnectionError
