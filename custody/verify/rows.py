"""Reads the rows of all users, in pages or those of some; writes and locks nothing."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.errors import Refused
from custody.db.queries import query
from custody.db.scope import transaction

PAGE = 500
# How many ids are in memory at once: some 80 MB.
_MOST_USERS = 500_000
# All rows are counted in one statement: some millions a second.
_COUNT_SECONDS = 600.0


class Group(NamedTuple):
    """The rows of one kek_id.

    Args:
        kek_id: which; None: those that have no wrap by the server.
        rows: how many there are.
        users: whose were chosen.
    """

    kek_id: str | None
    rows: int
    users: tuple[str, ...]


class RowReader:
    """Reads rows.

    Args:
        engine: connections of the schema's owner, or of custody_verify.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def check(self, variable: str) -> None:
        """See that all rows can be read.

        Args:
            variable: which setting the URL is, for messages.

        Raises:
            Refused: they can't, as database and role are.
            DatabaseError: the database can't be asked now.
        """
        async with transaction(self._engine) as connection:
            (found,) = await connection.fetch(query("can_read_rows"))
        if not found["is_migrated"]:
            raise Refused(
                f"{variable}: the database is not migrated to this release; run: custody migrate"
            )
        if not found["may_read"]:
            raise Refused(
                f"{variable}: this role may not read the wraps of all rows; it must be "
                "custody_verify, a member of it, or the owner of the schema auth"
            )

    async def choose(self, most: int, seed: int) -> tuple[Group, ...]:
        """Count the rows of each kek_id, and choose some of them at random.

        Args:
            most: how many of each.
            seed: the same one chooses the same of the same rows; at most 63 bits.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        async with transaction(self._engine, _COUNT_SECONDS) as connection:
            await connection.execute(query("open_audit"))
            rows = await connection.fetch(query("choose_rows"), most, seed)
        return tuple(Group(row["kek_id"], row["count"], tuple(row["users"])) for row in rows)

    async def users(self, count: int) -> AsyncIterator[Sequence[str]]:
        """Return whose rows there are: so many at once as may be in memory.

        Args:
            count: about how many there are.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        parts = 1 + count // _MOST_USERS
        for part in range(parts):
            async with transaction(self._engine, _COUNT_SECONDS) as connection:
                await connection.execute(query("open_audit"))
                rows = await connection.fetch(query("list_every_row"), part, parts)
            yield [row["user_id"] for row in rows]

    async def read(self, users: Sequence[str]) -> Sequence[Any]:
        """Return the rows of some users, as far as there are any.

        Args:
            users: their ids, at most :data:`PAGE`.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        async with transaction(self._engine) as connection:
            await connection.execute(query("open_audit"))
            return list(await connection.fetch(query("read_every_row"), list(users)))
