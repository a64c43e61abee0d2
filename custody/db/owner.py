"""The connection of the schema's owner: for migrations and for erasing users, never for serving."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from custody.db.engine import CONNECT_TIMEOUT_SECONDS, Connection, Dsn


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
        connection = await asyncpg.connect(
            owner.url,
            timeout=CONNECT_TIMEOUT_SECONDS,
            statement_cache_size=0,  # a pooler may give each transaction another session
        )
    except (
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
        asyncpg.InsufficientPrivilegeError,
    ) as error:
        raise OwnerRefused(f"CUSTODY_OWNER_DATABASE_URL: {first_line(error)}") from None
    except (OSError, asyncpg.PostgresError) as error:
        raise OwnerUnreachable(
            f"no connection to the database of CUSTODY_OWNER_DATABASE_URL: {first_line(error)}"
        ) from None
    except (asyncpg.InterfaceError, ValueError):
        # Their text may quote the URL.
        raise OwnerRefused("CUSTODY_OWNER_DATABASE_URL: the URL can't be used as it is") from None
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
