"""Whether the database keeps its promises for the role that we are: asked before serving.

Two statements over the catalog say what is really in force: ``list_schema_problems.sql`` and
``list_role_problems.sql`` in ``sql/queries``.
"""

import asyncio
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.errors import DatabaseError
from custody.db.queries import query
from custody.db.scope import connection

CHECK_TIMEOUT_SECONDS = 5.0

Duty: TypeAlias = Literal["custody_app", "custody_rewrap"]


@dataclass(frozen=True, slots=True)
class PostureProblem:
    """An unsafe state of the database.

    Args:
        part: ``schema`` or ``roles``, which are unsafe; or ``audit``, whose rows can't be written,
            so that the routes answer 503 by themselves.
        message: what is wrong and the cure, in one line.
    """

    part: str
    message: str


async def find_problems(engine: AsyncEngine, duty: Duty) -> tuple[PostureProblem, ...]:
    """Ask the database what is unsafe in its schema or in our role.

    Args:
        engine: connections of the role to judge.
        duty: the runtime role that it must be, or be a member of.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS), connection(engine) as held:
            schema = await held.fetch(query("list_schema_problems"))
            roles = await held.fetch(query("list_role_problems"), duty)
    except TimeoutError:
        raise DatabaseError("the database did not answer in time") from None
    return (
        *(PostureProblem("schema", row["problem"]) for row in schema),
        *(PostureProblem(row["part"], row["problem"]) for row in roles),
    )
