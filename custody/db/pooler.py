"""Whether prepared statements may be kept: a pooler may give each transaction another session.

PgBouncer in transaction mode keeps track of them from 1.21 on, with max_prepared_statements above
0, as newer poolers do. Behind any other one, a statement that was prepared in one transaction is
missing in the next, or is another client's of the same name. There each is sent anew.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import asyncpg
import structlog

from custody.db.errors import DatabaseError
from custody.db.queries import query

if TYPE_CHECKING:
    from custody.db.connect import Connection

_CACHED_STATEMENTS = 100
_PROBE = "custody_probe"
_PROBE_SECONDS = 3.0

log = structlog.get_logger()


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
            DatabaseError: the pooler ends connections that begin a transaction.
            TimeoutError: it does not answer. And whatever ``connect`` raises.
        """
        if self._kept:
            connection = await self._connect(_CACHED_STATEMENTS)
            try:
                async with asyncio.timeout(_PROBE_SECONDS):
                    if await _keeps_statements(connection):
                        return connection
            except BaseException:
                connection.terminate()
                raise
            connection.terminate()
            self._kept = False
            log.warning(
                "pooler_keeps_no_statements",
                setting=self._variable,
                cure="faster with PgBouncer 1.21 or newer and max_prepared_statements above 0",
            )
        return await self._connect(0)


async def _keeps_statements(connection: "Connection") -> bool:
    """Say whether a statement that is prepared now will be there in later transactions.

    A pooler makes up the process id that it says at login, for it has many servers. One that keeps
    track of statements gives them other names on its servers; where ours is seen there, it does
    not, or need not because each client has a server of its own.
    """
    process = bytearray()

    async def keep(data: bytes) -> None:
        process.extend(data)

    # By COPY, which prepares nothing: one round trip for each new connection.
    await connection.copy_from_query(query("read_process_id"), output=keep)
    if int(process) == connection.get_server_pid():
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
