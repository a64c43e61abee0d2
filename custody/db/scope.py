"""The one way to a user's rows: a short transaction in the user's scope, with a deadline.

Every exit is one of three: committed, rolled back, or the connection is thrown away.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from custody import tracing
from custody.db.checkout import acquire
from custody.db.commit import GIVE_UP_SECONDS, commit, give_up
from custody.db.engine import Connection
from custody.db.errors import NO_ANSWER, DatabaseError, OnlyThisRequest
from custody.db.queries import query
from custody.deadline import Deadline

# The database gives up this much earlier than we do, so that its answer to the last possible COMMIT
# still comes: no client gets 503 for a change that was made. And there is time to cancel a COMMIT
# that waits for a standby.
_ANSWER_SECONDS = 0.25
COMMIT_MARGIN_SECONDS = _ANSWER_SECONDS + GIVE_UP_SECONDS


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
        with tracing.span("database commit"):
            await commit(connection, until)


@asynccontextmanager
async def transaction(
    engine: AsyncEngine, seconds: float = 30.0, *, lock_seconds: float = 2.0
) -> AsyncIterator[Connection]:
    """Open a transaction without a user scope, and commit it at the end of the block.

    Args:
        engine: connections of a runtime role.
        seconds: how long all of it may take.
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
        raise DatabaseError(NO_ANSWER) from None


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
        if before - deadline.remaining() < _ANSWER_SECONDS:
            return
