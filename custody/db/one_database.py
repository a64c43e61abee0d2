"""Whether two URLs lead to one database: proved on the server, not read off the URLs.

A name may lead to several servers, and a copy of a database has the same rows. An advisory
lock is in one place alone.
"""

import secrets

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.engine import Connection
from custody.db.errors import Refused
from custody.db.queries import query
from custody.db.scope import transaction

_SECONDS = 5.0
_LOWEST = -(2**63)


async def refuse_another(engine: AsyncEngine, app: AsyncEngine) -> None:
    """Refuse a re-wrap database that is not the daemon's.

    In another one no row is under any KEK, so that a key which is needed would look unused.

    Args:
        engine: connections by CUSTODY_REWRAP_DATABASE_URL.
        app: connections by CUSTODY_DATABASE_URL.

    Raises:
        Refused: they are two; the message names both.
        DatabaseError: one of them can't be asked now.
    """
    number = secrets.randbits(64) + _LOWEST
    async with transaction(app, _SECONDS) as first, transaction(engine, _SECONDS) as second:
        await first.fetchval(query("try_lock"), number)
        if await second.fetchval(query("try_lock"), number):
            here, there = await _name(second), await _name(first)
            raise Refused(
                f"CUSTODY_REWRAP_DATABASE_URL leads to {here}, and CUSTODY_DATABASE_URL to "
                f"{there}; set both to the database that serves the users"
            )


async def name_of(engine: AsyncEngine) -> str:
    """Return the name and the place of the database that answers, for people.

    Raises:
        DatabaseError: it can't be asked now.
    """
    async with transaction(engine, _SECONDS) as connection:
        return await _name(connection)


async def _name(connection: Connection) -> str:
    return str(await connection.fetchval(query("name_database")))
