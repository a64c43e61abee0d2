"""The connection of the schema's owner: for migrations and for erasing users, never for serving."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from custody.db.commit import commit
from custody.db.connect import Connection, Manner, connect
from custody.db.dsn import Dsn
from custody.db.errors import DatabaseError, Demoted, OutcomeUnknown, Refused

_COMMIT_SECONDS = 60.0
_VARIABLE = "CUSTODY_OWNER_DATABASE_URL"


class OwnerError(Exception):
    """What the owner asked for was not done. The message names the cure."""


class OwnerUnreachable(OwnerError):
    """The database can't be reached."""


class OwnerRefused(OwnerError):
    """The database refuses this role, or its URL is wrong."""


class OwnerUncertain(OwnerError):
    """Whether it was done is not known. The command is idempotent: run again, it shows."""


@asynccontextmanager
async def owner_connection(owner: Dsn) -> AsyncIterator[Connection]:
    """Connect as the owner for the length of the block.

    Raises:
        OwnerUnreachable: the database is down, or went away.
        OwnerRefused: it refuses the role or its password, or the URL is wrong.
        OwnerUncertain: see :func:`owner_transaction`.
    """
    try:
        # No statement is kept: a pooler may give each transaction another session.
        connection = await connect(owner, Manner(None, 0), variable=_VARIABLE)
    except Refused as error:
        raise OwnerRefused(str(error)) from None
    except DatabaseError as error:
        raise OwnerUnreachable(str(error)) from None
    try:
        yield connection
    except OutcomeUnknown as error:
        raise OwnerUncertain(f"{error}; run the command again, which tells") from None
    except Demoted as error:
        raise OwnerUnreachable(str(error)) from None
    except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError) as error:
        raise OwnerUnreachable(f"the database went away: {type(error).__name__}") from None
    finally:
        connection.terminate()  # the session's locks go with it


@asynccontextmanager
async def owner_transaction(connection: Connection) -> AsyncIterator[None]:
    """Open a transaction, and commit it at the end of the block.

    One that fails ends with its connection, which nobody uses after that.

    Raises:
        OutcomeUnknown: the connection was lost in COMMIT, or no standby confirmed it in a minute.
        Demoted: the server is the primary no more.
    """
    await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    yield
    await commit(connection, asyncio.get_running_loop().time() + _COMMIT_SECONDS)


def first_line(error: BaseException) -> str:
    """Return an error's message without its detail, which may be a whole row."""
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    return str(message).splitlines()[0]
