"""Connections borrowed from the pool, and what goes wrong on them as a :class:`DatabaseError`.

A statement that was interrupted leaves its connection in an unknown state. Such a one never goes
back to the pool (SQLAlchemy issues 12077 and 12099).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar, cast

import asyncpg
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from custody import tracing
from custody.db.commit import CONNECTION_ERRORS, LOSSES, give_up
from custody.db.engine import Connection, waited_by
from custody.db.errors import (
    Busy,
    ConnectionLost,
    DatabaseError,
    DataKeyEnded,
    DataKeyGone,
    Demoted,
    OnlyThisRequest,
    Refused,
    RetiredKek,
)

_ROLLBACK_TIMEOUT_SECONDS = 1.0
# The first loss may be of a connection that had ended long before; seeing it, the loop has learnt
# which others have ended, too, and the pool replaces those.
_ATTEMPTS = 3

# What triggers on the vaults refuse, by codes of their own.
_OURS: dict[str, DatabaseError] = {
    "KEK01": RetiredKek("the KEK of this wrap is retired; set CUSTODY_KEK to another KEK"),
    "KEK02": DataKeyGone(
        "the data key of this wrap is not on record: restore auth.encryption_data_keys and "
        "auth.encryption_data_key_wraps from a backup"
    ),
    "KEK03": DataKeyEnded(
        "this process seals with a data key that was ended; it takes the current one in seconds"
    ),
}

# One statement's own fault: what it was given, or how long it took.
_OF_A_STATEMENT = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.TransactionRollbackError,
    asyncpg.QueryCanceledError,
)

# What says that another connection may do: a pooler that was set up anew gives us sessions that
# know other statements than ours (custody/db/pooler.py), and a primary that was demoted lets its
# sessions live on, read-only (25006), while its successor is at another host of the URL. And a
# session keeps the statement_timeout that its role had when it began, whatever became of that.
UNUSABLE = (
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.QueryCanceledError,
    asyncpg.ReadOnlySQLTransactionError,
    Demoted,
)
_READ_ONLY = (asyncpg.ReadOnlySQLTransactionError, Demoted)

T = TypeVar("T")


@asynccontextmanager
async def acquire(engine: AsyncEngine, until: float | None = None) -> AsyncIterator[Connection]:
    """Borrow a connection; what goes wrong on it comes out as a :class:`DatabaseError`.

    Args:
        engine: connections of a runtime role.
        until: how long to wait for one, as ``loop.time()`` counts; None: the pool's own limits.
    """
    pool = engine.pool
    borrowed = await _checkout(engine, until)
    try:
        raw = await borrowed.get_raw_connection()
        connection = cast("Connection", raw.driver_connection)
        try:
            yield connection
        except CONNECTION_ERRORS as error:
            if isinstance(error, TimeoutError):
                await give_up(connection)
            else:
                connection.terminate()
            # Without an answer in time, a new connection would hardly have one sooner.
            kind = DatabaseError if isinstance(error, TimeoutError) else ConnectionLost
            raise kind(f"the database failed: {type(error).__name__}") from None
        except Exception as error:
            await _roll_back(connection)
            if isinstance(error, UNUSABLE):
                connection.terminate()
            if isinstance(error, _READ_ONLY) and engine.pool is pool:
                # The idle ones are of the same server.
                await close_idle(engine)
            if isinstance(error, asyncpg.PostgresError):
                # "from None": a PostgreSQL error may quote the failing row.
                raise _translate(error) from None
            raise
        except BaseException:
            await give_up(connection)
            raise
    finally:
        # To a pool that was dropped meanwhile nothing goes back: nobody would ever close it.
        await asyncio.shield(_give_back(borrowed, dropped=engine.pool is not pool))


async def on_a_living_connection(work: Callable[[], Awaitable[T]]) -> T:
    """Do what only reads, or may be done twice; again where the connection that it had was lost.

    A pool may hold connections that the server has ended. Losing one of those says less than what
    the server answers to a new one: that it is down, or refuses the role.

    Args:
        work: borrows a connection by itself.

    Raises:
        DatabaseError: as the last attempt.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return await work()
        except ConnectionLost:
            continue
    return await work()


async def _checkout(engine: AsyncEngine, until: float | None) -> AsyncConnection:
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        with tracing.span("database connection"):
            async with asyncio.timeout_at(until):
                return await engine.connect()
    except exc.TimeoutError:
        raise Busy("no database connection became free in time") from None
    except (
        exc.SQLAlchemyError,
        asyncpg.PostgresError,
        *CONNECTION_ERRORS,
        ValueError,
    ) as error:
        # Only the type: the text may quote the URL.
        raise DatabaseError(f"no connection to the database: {type(error).__name__}") from None
    finally:
        waited_by(engine)(loop.time() - began)


async def _roll_back(connection: Connection) -> None:
    try:
        async with asyncio.timeout(_ROLLBACK_TIMEOUT_SECONDS):
            if not connection.is_closed() and connection.is_in_transaction():
                await connection.execute("ROLLBACK")
    except (asyncpg.PostgresError, *CONNECTION_ERRORS):
        connection.terminate()


async def close_idle(engine: AsyncEngine) -> None:
    """Close the connections that nobody has borrowed, and those that somebody has at their return.

    Whoever asks next has a session of its own, with what its role has set by then.
    """
    try:
        async with asyncio.timeout(_ROLLBACK_TIMEOUT_SECONDS):
            await engine.dispose()
    except TimeoutError:
        pass  # what is left is closed with its pool, which nobody asks any more


async def _give_back(borrowed: AsyncConnection, *, dropped: bool) -> None:
    # Without memory it is closed once nobody holds it, and the pool makes another. What was done on
    # it is done, and its answer stays what it is.
    with suppress(MemoryError):
        raw = await borrowed.get_raw_connection()
        connection = cast("Connection", raw.driver_connection)
        if dropped or connection.is_closed() or connection.is_in_transaction():
            connection.terminate()
            await borrowed.invalidate()
        await borrowed.close()


def _translate(error: Exception) -> DatabaseError:
    if isinstance(error, asyncpg.DiskFullError):
        return DatabaseError("the disk of the database is full: give it room")
    if isinstance(error, asyncpg.LockNotAvailableError | asyncpg.DeadlockDetectedError):
        return Busy("the user's row is locked by someone else")
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return Refused("the database role lacks a privilege; run: custody doctor")
    if (ours := _OURS.get(getattr(error, "sqlstate", ""))) is not None:
        return type(ours)(*ours.args)
    kind = DatabaseError
    if isinstance(error, LOSSES):
        kind = ConnectionLost
    elif isinstance(error, _OF_A_STATEMENT):
        kind = OnlyThisRequest
    return kind(f"the database failed: {type(error).__name__}")
