"""What an operator should know of the database: unwise, and no reason not to serve."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.engine import Connection
from custody.db.queries import query
from custody.db.scope import transaction

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to know.

    Args:
        part: of the database.
        message: in one line; of a problem with its cure.
        is_problem: whether something should be done about it.
    """

    part: str
    message: str
    is_problem: bool


async def advise(engine: AsyncEngine) -> tuple[Advice, ...]:
    """Ask the database.

    Args:
        engine: connections of a runtime role.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    async with transaction(engine, _SECONDS) as connection:
        return await advise_over(connection)


async def dumpers(engine: AsyncEngine) -> tuple[str, ...]:
    """Return the roles that may dump the database, superusers not counted.

    Args:
        engine: connections of a runtime role.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    async with transaction(engine, _SECONDS) as connection:
        rows = await connection.fetch(query("list_dumpers"))
    return tuple(row["name"] for row in rows)


async def advise_over(connection: Connection) -> tuple[Advice, ...]:
    """Ask the database over a connection.

    Args:
        connection: of any role.
    """
    rows = await connection.fetch(query("list_advice"))
    return tuple(Advice(row["part"], row["message"], row["is_problem"]) for row in rows)
