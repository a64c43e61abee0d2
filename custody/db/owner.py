"""The connection of the schema's owner: for migrations and for erasing users, never for serving."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from custody.db.connect import Connection, Manner, connect
from custody.db.dsn import Dsn
from custody.db.errors import DatabaseError, Refused

_VARIABLE = "CUSTODY_OWNER_DATABASE_URL"


class OwnerError(Exception):
    """What the owner asked for was not done. The message names the cure."""


class OwnerUnreachable(OwnerError):
    """The database can't be reached."""


class OwnerRefused(OwnerError):
    """The database refuses this role, or its URL is wrong."""


@asynccontextmanager
async def owner_connection(owner: Dsn) -> AsyncIterator[Connection]:
    """Connect as the owner for the length of the block.

    Raises:
        OwnerUnreachable: the database is down, or went away.
        OwnerRefused: it refuses the role or its password, or the URL is wrong.
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
    except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError) as error:
        raise OwnerUnreachable(f"the database went away: {type(error).__name__}") from None
    finally:
        connection.terminate()  # a lock that is held goes with the session


def first_line(error: BaseException) -> str:
    """Return an error's message without its detail, which may be a whole row."""
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    return str(message).splitlines()[0]
