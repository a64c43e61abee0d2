"""COMMIT, and what is known of it afterwards.

Three things are certain: the server said COMMIT; it said that it rolled back; or nothing was sent.
All else is :class:`OutcomeUnknown`: the connection was lost on the way, or no answer came in time.
A server that replicates synchronously has the transaction on its own disk before it waits for a
standby, so a wait that is cut short ends in COMMIT with a warning, and must not be believed either.
"""

import asyncio

import asyncpg

from custody.db.connect import Session
from custody.db.engine import Connection
from custody.db.errors import ConnectionLost, DatabaseError, Demoted, OutcomeUnknown

# After one of these nobody knows what state the connection is in. The internal error is what
# asyncpg raises when the server has ended the session while nobody was using it. Without memory
# an answer may have come, and was not read.
CONNECTION_ERRORS = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, MemoryError)
# With one of these the server itself ends the connection (classes 08 and 57P0x).
LOSSES = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)
# A server that can be asked cancels at once; one that is frozen has no longer.
GIVE_UP_SECONDS = 0.25
_WAITS = "no synchronous standby has confirmed it (synchronous_standby_names)"


async def commit(connection: Connection, until: float) -> None:
    """Commit the open transaction.

    Args:
        connection: in a transaction.
        until: when to give up, as ``loop.time()`` counts.

    Raises:
        ConnectionLost: nothing was sent.
        OutcomeUnknown: it may have been made; the connection is closed.
        DatabaseError, asyncpg.PostgresError: it was rolled back.
    """
    refuse_demoted(connection)
    if connection.is_closed():
        raise ConnectionLost("the connection ended before COMMIT was sent")
    try:
        async with asyncio.timeout_at(until):
            done = await connection.execute("COMMIT")
    except TimeoutError:
        await give_up(connection)
        # Looked at after the wait was cut short: only then has the server said for what it waited.
        cause = _WAITS if _is_unreplicated(connection) else "no answer in time"
        raise OutcomeUnknown(cause) from None
    except (*CONNECTION_ERRORS, *LOSSES) as error:
        connection.terminate()
        raise OutcomeUnknown(type(error).__name__) from None
    refuse_unreplicated(connection)
    if done != "COMMIT":
        raise DatabaseError("the transaction was rolled back")


def refuse_unreplicated(connection: Connection) -> None:
    """Refuse to call committed what waited for a standby and was cut short.

    Args:
        connection: on which a COMMIT, or a statement that is a transaction itself, has succeeded.

    Raises:
        OutcomeUnknown: it stands on this server alone; the connection is closed.
    """
    if _is_unreplicated(connection):
        connection.terminate()
        raise OutcomeUnknown(_WAITS)


def _is_unreplicated(connection: Connection) -> bool:
    return isinstance(connection, Session) and connection.is_unreplicated


def refuse_demoted(connection: Connection) -> None:
    """Refuse what was read from a server that is the primary no more, though the URL wants one.

    Before a commit nothing is lost by it; after one, what was changed stays so.

    Raises:
        Demoted: it has said so, or has a successor.
    """
    if isinstance(connection, Session) and connection.is_demoted:
        raise Demoted("the server is the primary no more")


async def give_up(connection: Connection) -> None:
    """Have the server end what it still does on a connection, and close it.

    To drop the connection alone would leave a COMMIT that waits for a standby, and its session,
    for as long as the standby is away: the server does not look at its socket meanwhile.
    """
    # A request that is cancelled once more still has its connection closed.
    await asyncio.shield(_close(connection))


async def _close(connection: Connection) -> None:
    try:
        await connection.close(timeout=GIVE_UP_SECONDS)
    except (asyncpg.PostgresError, *CONNECTION_ERRORS):
        connection.terminate()
