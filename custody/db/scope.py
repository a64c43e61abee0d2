"""The one way to a user's rows: a short transaction in the user's scope, with a deadline.

Every exit is one of three: committed, rolled back, or the connection is thrown away. A statement
that was interrupted leaves its connection in an unknown state, so such a one never goes back to
the pool (SQLAlchemy issues 12077 and 12099).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, cast

import asyncpg
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from custody.db.commit import (
    CONNECTION_ERRORS,
    GIVE_UP_SECONDS,
    LOSSES,
    commit,
    give_up,
)
from custody.db.engine import Connection
from custody.db.errors import (
    Busy,
    ConnectionLost,
    DatabaseError,
    Demoted,
    OnlyThisRequest,
    Refused,
    RetiredKek,
)
from custody.db.queries import query
from custody.deadline import Deadline

# The database gives up this much earlier than we do, so that the word of a commit made at the
# last moment still reaches us: a client is not told 503 for a change that was made. And there is
# time to have a commit cancelled that waits for a standby.
_WORD_SECONDS = 0.25
COMMIT_MARGIN_SECONDS = _WORD_SECONDS + GIVE_UP_SECONDS
_ROLLBACK_TIMEOUT_SECONDS = 1.0
# The first loss may be of a connection that had ended long before; seeing it, the loop has learnt
# which others have ended, too, and the pool replaces those.
_ATTEMPTS = 3

# Raised by the trigger encryption_vaults_refuse_retired_kek.
_RETIRED_KEK = "KEK01"

# One statement's own fault: what it was given, or how long it took.
_OF_A_STATEMENT = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.TransactionRollbackError,
    asyncpg.QueryCanceledError,
)

T = TypeVar("T")


# What says that another connection may do: a pooler that was set up anew gives us sessions that
# know other statements than ours (custody/db/pooler.py), and a primary that was demoted lets its
# sessions live on, read-only (25006), while its successor is at another host of the URL.
UNUSABLE = (
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.ReadOnlySQLTransactionError,
    Demoted,
)
_READ_ONLY = (asyncpg.ReadOnlySQLTransactionError, Demoted)


@asynccontextmanager
async def user_transaction(
    engine: AsyncEngine, user_id: str, deadline: Deadline
) -> AsyncIterator[Connection]:
    """Open a transaction that sees only one user's rows, and commit it at the end of the block.

    Args:
        engine: connections of the role custody_app.
        user_id: whose rows; set with ``set_config(…, true)``, so it ends with the transaction.
        deadline: of the request. A transaction that wrote an audit row and is not committed by
            then never commits: the database itself checks it inside COMMIT.

    Raises:
        Busy: no free connection, or a locked row.
        Refused: a missing privilege.
        RetiredKek: a wrap under a retired KEK.
        OnlyThisRequest: the rest of what is the request's own, such as a deadline that is over.
        OutcomeUnknown: the COMMIT may have been made. It was sent before the deadline, and no
            longer waits for a standby: it is not made later.
        DatabaseError: down, frozen, or out of time; nothing was done.
    """
    if deadline.remaining() <= COMMIT_MARGIN_SECONDS:
        raise OnlyThisRequest("no time is left")
    until = deadline.at - GIVE_UP_SECONDS
    async with acquire(engine, until) as connection:
        async with _bounded(connection, until):
            # Whatever the server's default is: a trigger that looks for retired KEKs needs it.
            await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            await _open_scope(connection, user_id, deadline)
            yield connection
        await commit(connection, until)


@asynccontextmanager
async def transaction(
    engine: AsyncEngine, seconds: float = 30.0, *, lock_seconds: float = 2.0
) -> AsyncIterator[Connection]:
    """Open a transaction that is nobody's, and commit it at the end of the block.

    Args:
        engine: connections of a runtime role.
        seconds: all of it may take.
        lock_seconds: how long it waits for a lock.

    Raises:
        DatabaseError: as :func:`user_transaction`.
    """
    until = asyncio.get_running_loop().time() + seconds
    async with acquire(engine, until) as connection:
        async with _bounded(connection, until):
            await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            bounds = (str(int(bound * 1000)) for bound in (lock_seconds, seconds))
            await connection.execute(query("open_transaction"), *bounds)
            yield connection
        await commit(connection, until)


@asynccontextmanager
async def _bounded(connection: Connection, until: float) -> AsyncIterator[None]:
    """Give up what is asked in the block, and the connection, when the time is over."""
    try:
        async with asyncio.timeout_at(until):
            yield
    except TimeoutError:
        await give_up(connection)
        raise DatabaseError("the database did not answer in time") from None


async def _open_scope(connection: Connection, user_id: str, deadline: Deadline) -> None:
    """Set whose rows the transaction sees, and until when it may commit.

    The database counts the seconds left from when it runs the statement. Where that took longer
    than that, its deadline could lie after the moment at which we give up: then it is set anew.
    """
    while True:
        before = deadline.remaining()
        left = before - COMMIT_MARGIN_SECONDS
        if left <= 0:
            raise OnlyThisRequest("no time is left")
        await connection.execute(query("open_scope"), user_id, left, str(int(left * 1000) or 1))
        if before - deadline.remaining() < _WORD_SECONDS:
            return


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
                await _close_idle(engine)
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
    try:
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


async def _roll_back(connection: Connection) -> None:
    try:
        async with asyncio.timeout(_ROLLBACK_TIMEOUT_SECONDS):
            if not connection.is_closed() and connection.is_in_transaction():
                await connection.execute("ROLLBACK")
    except (asyncpg.PostgresError, *CONNECTION_ERRORS):
        connection.terminate()


async def _close_idle(engine: AsyncEngine) -> None:
    try:
        async with asyncio.timeout(_ROLLBACK_TIMEOUT_SECONDS):
            await engine.dispose()
    except TimeoutError:
        pass  # what is left is closed with its pool, which nobody asks any more


async def _give_back(borrowed: AsyncConnection, *, dropped: bool) -> None:
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
    if getattr(error, "sqlstate", None) == _RETIRED_KEK:
        return RetiredKek("the KEK of this wrap is retired; set CUSTODY_KEK to another KEK")
    kind = DatabaseError
    if isinstance(error, LOSSES):
        kind = ConnectionLost
    elif isinstance(error, _OF_A_STATEMENT):
        kind = OnlyThisRequest
    return kind(f"the database failed: {type(error).__name__}")
