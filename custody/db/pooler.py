"""Whether prepared statements may be kept: a pooler may give each transaction another session.

PgBouncer in transaction mode keeps track of them from 1.21 on, with max_prepared_statements above
0, as newer poolers do. Behind any other one, a statement that was prepared in one transaction is
missing in the next, or is another client's of the same name. There each is sent anew.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import asyncpg
import structlog

from custody.db.errors import SILENT, DatabaseError, Unreachable
from custody.db.queries import query

if TYPE_CHECKING:
    from custody.db.connect import Connection

_CACHED_STATEMENTS = 100
_PROBE = "custody_probe"
_PROBE_SECONDS = 3.0

log = structlog.get_logger()

T = TypeVar("T")


class Statements:
    """Opens the connections of one engine, with prepared statements where they are kept.

    Args:
        connect: opens a connection that keeps so many prepared statements.
        variable: which setting the URL is, for the log.
    """

    def __init__(self, connect: Callable[[int], Awaitable["Connection"]], variable: str) -> None:
        self._connect = connect
        self._variable = variable
        self._kept = True

    async def open(self) -> "Connection":
        """Open a connection.

        Raises:
            DatabaseError: the pooler ends connections that begin a transaction, or does not
                answer. And whatever ``connect`` raises.
        """
        if self._kept:
            connection = await self._connect(_CACHED_STATEMENTS)
            if await self._asked(connection, _keeps_statements):
                return connection
            connection.terminate()
            self._kept = False
            log.warning(
                "pooler_keeps_no_statements",
                setting=self._variable,
                cure="faster with PgBouncer 1.21 or newer and max_prepared_statements above 0",
            )
        connection = await self._connect(0)
        await self._asked(connection, _read_process_id)
        return connection

    async def _asked(
        self, connection: "Connection", ask: Callable[["Connection"], Awaitable[T]]
    ) -> T:
        """Ask the first question over a connection; without an answer it is closed."""
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                return await ask(connection)
        except TimeoutError:
            connection.terminate()
            raise Unreachable(f"{self._variable}: {SILENT}") from None
        except BaseException:
            connection.terminate()
            raise


async def _read_process_id(connection: "Connection") -> int:
    """Return the server's process behind the session."""
    process = bytearray()

    async def keep(data: bytes) -> None:
        process.extend(data)

    # By COPY, which prepares nothing: one round trip for each new connection.
    await connection.copy_from_query(query("read_process_id"), output=keep)
    return int(process)


async def _keeps_statements(connection: "Connection") -> bool:
    """Say whether a statement that is prepared now will be there in later transactions.

    A pooler makes up the process id that it says at login, for it has many servers. One that keeps
    track of statements gives them other names on its servers; where ours is seen there, it does
    not, or need not because each client has a server of its own.
    """
    if await _read_process_id(connection) == connection.get_server_pid():
        return True
    try:
        async with connection.transaction():
            probe = await connection.prepare(query("is_prepared"), name=_PROBE)
            if not await probe.fetchval(_PROBE):
                return True
            await connection.execute(query("forget_probe"))
    except asyncpg.DuplicatePreparedStatementError:
        pass  # one that was left behind
    except asyncpg.PostgresConnectionError:
        raise DatabaseError(
            "the pooler before the database ends connections that begin a transaction: is it going "
            "down, or its pool_mode neither transaction nor session?"
        ) from None
    return False
