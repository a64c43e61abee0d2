"""Whether the database keeps its promises for the role that we are: asked before serving.

Statements over the catalog say what is really in force: ``list_schema_problems.sql``,
``list_role_problems.sql`` and ``list_setting_problems.sql`` in ``sql/queries``. They are asked in
one transaction that sets what they rely on, whatever the role, the database or the URL sets.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias, get_args

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.checkout import close_idle
from custody.db.engine import Connection, Dsn, open_engine
from custody.db.errors import DatabaseError, Refused, Unreachable
from custody.db.one_database import refuse_another
from custody.db.queries import query
from custody.db.scope import transaction

CHECK_TIMEOUT_SECONDS = 5.0

Duty: TypeAlias = Literal["custody_app", "custody_rewrap"]


class Kind(StrEnum):
    """What kind of problem it is; ``list_role_problems.sql`` has the last four."""

    SCHEMA = "schema"
    ROLES = "roles"
    # A role that does not have the duty at all.
    STRANGER = "stranger"
    # Audit rows can't be written.
    AUDIT = "audit"
    # Users can't read the own ones.
    TRAIL = "trail"


@dataclass(frozen=True, slots=True)
class PostureProblem:
    """Something that is wrong in the database.

    Args:
        kind: of problem.
        message: what is wrong and the cure, in one line.
    """

    kind: Kind
    message: str

    @property
    def is_unsafe(self) -> bool:
        """Whether no request may reach the database; without audit rows they answer 503 anyway."""
        return self.kind not in {Kind.AUDIT, Kind.TRAIL}

    @property
    def part(self) -> str:
        """Under which part of the readiness an operator finds it."""
        return {Kind.STRANGER: Kind.ROLES, Kind.TRAIL: Kind.AUDIT}.get(self.kind, self.kind)


async def find_problems(engine: AsyncEngine, duty: Duty) -> tuple[PostureProblem, ...]:
    """Ask the database what is unsafe in its schema or in our role.

    Where something is, no connection stays: a session keeps the settings that its role had when it
    began, also once an administrator has taken them back.

    Args:
        engine: connections of the role to check.
        duty: the runtime role that it must be, or be a member of.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    async with transaction(engine, CHECK_TIMEOUT_SECONDS) as connection:
        problems = await look(connection, duty)
    if any(problem.is_unsafe for problem in problems):
        await close_idle(engine)
    return problems


async def look(connection: Connection, duty: Duty) -> tuple[PostureProblem, ...]:
    """Return what is unsafe in the schema or in the role that is connected.

    Args:
        connection: in a transaction, which is changed by what the look sets: to its end.
        duty: the runtime role that it must be, or be a member of.
    """
    if unmigrated := await connection.fetchval(query("describe_unmigrated")):
        return (PostureProblem(Kind.SCHEMA, unmigrated),)
    ours, schema = await _look_at_schema(connection)
    roles = await _look_at_role(connection, duty, ours)
    if strangers := tuple(problem for problem in roles if problem.kind is Kind.STRANGER):
        # With the URL of another role, all the rest follows from that.
        return strangers
    settings = await connection.fetch(query("list_setting_problems"))
    return (*schema, *roles, *(PostureProblem(Kind.ROLES, row["problem"]) for row in settings))


async def look_as_owner(connection: Connection) -> tuple[PostureProblem, ...]:
    """Return what is unsafe in the schema, or in the two runtime roles themselves.

    Args:
        connection: a connection of the owner, in a transaction that the look changes.
    """
    if unmigrated := await connection.fetchval(query("describe_unmigrated")):
        return (PostureProblem(Kind.SCHEMA, unmigrated),)
    ours, schema = await _look_at_schema(connection)
    found = {problem.message: problem for problem in schema}
    for duty in get_args(Duty):
        for problem in await _look_at_role(connection, duty, ours, role=duty):
            found.setdefault(problem.message, problem)
    return tuple(found.values())


async def _look_at_schema(connection: Connection) -> tuple[bool | None, tuple[PostureProblem, ...]]:
    """Say whether auth.users is marked as ours, where that is known, and what is unsafe."""
    await connection.execute(query("prepare_look"))
    # A role that may not read it, or a database without it, is a problem found below.
    readable = await connection.fetchval(query("can_read_marks"))
    ours = await connection.fetchval(query("read_mark_of_users")) if readable else None
    rows = await connection.fetch(query("list_schema_problems"), ours, readable)
    return ours, tuple(PostureProblem(Kind.SCHEMA, row["problem"]) for row in rows)


async def _look_at_role(
    connection: Connection, duty: Duty, ours: bool | None, role: str | None = None
) -> tuple[PostureProblem, ...]:
    """Return what is unsafe in a role; None is the one that is connected."""
    rows = await connection.fetch(query("list_role_problems"), duty, ours, role)
    return tuple(PostureProblem(Kind(row["kind"]), row["problem"]) for row in rows)


@asynccontextmanager
async def safe_engine(
    dsn: Dsn, duty: Duty, *, variable: str, pool_size: int = 1, beside: Dsn | None = None
) -> AsyncIterator[AsyncEngine]:
    """Connect for one command, once the database and the role are found safe for its duty.

    Args:
        dsn: of the runtime role.
        duty: the runtime role that it must be, or be a member of.
        variable: which setting the URL is, for messages.
        pool_size: connections at most.
        beside: of the daemon's role, where it is known: it must be the same database.

    Raises:
        Refused: the database, the role or the URL is not to be used; the message names the cure.
        DatabaseError: the database can't be asked now.
    """
    async with open_engine(dsn, pool_size=pool_size, variable=variable) as engine:
        await refuse_unfit(engine, duty, variable)
        if beside is not None:
            async with open_engine(beside, pool_size=1) as app:
                await refuse_another(engine, app)
        yield engine


async def refuse_unfit(engine: AsyncEngine, duty: Duty, variable: str) -> None:
    """Refuse a database, or a role, that is not to be used for a command or a worker.

    Args:
        engine: connections of the role.
        duty: the runtime role that it must be, or be a member of.
        variable: which setting the URL is, for messages.

    Raises:
        Refused: the message names the cure.
        DatabaseError: the database can't be asked now.
    """
    problems = await _find_or_name(engine, duty, variable)
    if refusal := _refusal_of(problems, duty):
        raise Refused(f"{variable}: {refusal}")


async def refuse_unfit_rewrap(engine: AsyncEngine, app: AsyncEngine) -> None:
    """Refuse a role that is not for re-wraps, or of another database than the daemon's.

    Args:
        engine: connections by CUSTODY_REWRAP_DATABASE_URL.
        app: connections by CUSTODY_DATABASE_URL.

    Raises:
        Refused, DatabaseError: as :func:`refuse_unfit`.
    """
    await refuse_unfit(engine, "custody_rewrap", "CUSTODY_REWRAP_DATABASE_URL")
    await refuse_another(engine, app)


def _refusal_of(problems: Sequence[PostureProblem], duty: Duty) -> str | None:
    """Say why a role may not be used for a command or a worker, or None where it may.

    Args:
        problems: all that was found.
        duty: the runtime role that it must be, or be a member of. One that can't write audit rows
            is of no use to custody_rewrap, and no hindrance to a command that writes none.
    """
    unsafe = [
        problem.message for problem in problems if problem.is_unsafe or duty == "custody_rewrap"
    ]
    return "; ".join(unsafe) or None


async def _find_or_name(
    engine: AsyncEngine, duty: Duty, variable: str
) -> tuple[PostureProblem, ...]:
    try:
        return await find_problems(engine, duty)
    except (Refused, Unreachable):
        raise  # they name the variable already
    except DatabaseError as error:
        raise DatabaseError(f"{variable}: {error}") from None
