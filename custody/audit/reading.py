"""Reads the audit, of all users and in pages: rows, checkpoints, and what the vaults are now."""

from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit.keys import Keys
from custody.audit.settled import settled
from custody.datakeys.ring import Ring
from custody.db.errors import Refused
from custody.db.queries import query
from custody.db.scope import transaction

PAGE = 20_000
# Nobody draws a number below 1, or so high a one; who writes the table may use them.
LOWEST, HIGHEST = -(2**63), 2**63 - 1
_CHECKPOINTS = 1000
_STATES = 2000
# It may have to read all rows that are older, in the order of their numbers.
_LOOK_SECONDS = 600.0

_number = itemgetter("number")


class Reader:
    """Reads the audit, and changes nothing.

    Args:
        engine: connections of the schema's owner, or of custody_audit.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def check(self, variable: str) -> None:
        """See that all of the audit can be read.

        Args:
            variable: which setting the URL is, for messages.

        Raises:
            Refused: it can't, as database and role are.
            DatabaseError: the database can't be asked now.
        """
        async with transaction(self._engine) as connection:
            found = await connection.fetchrow(query("can_read_audit"))
        if found is None or not found["is_migrated"]:
            raise Refused(
                f"{variable}: the database is not migrated to this release; run: custody migrate"
            )
        if not found["may_read"]:
            raise Refused(
                f"{variable}: this role does not see the whole audit; it must be custody_audit, a "
                "member of it, or the owner of the schema auth"
            )

    async def settled(self) -> int | None:
        """Return a number up to which no row can come any more; None: somebody writes for long.

        Raises:
            Refused: the server is a standby, which can't say it.
            DatabaseError: the database can't be asked now.
        """
        return await settled(self._engine)

    async def newest(
        self, count: int, up_to: int, user: str | None = None, actions: Sequence[str] = ()
    ) -> list[Any]:
        """Return the newest rows, the oldest of them first.

        Args:
            count: how many at most.
            up_to: the highest number.
            user: whose; None: everybody's.
            actions: which ones; none: all.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        chosen = up_to, user, list(actions) or None, count
        return (await self._ask("read_newest_audit_rows", *chosen))[::-1]

    async def rows(self, first: int, last: int) -> list[Any]:
        """Return the next rows, in the order of their numbers: a page of them at most.

        Args:
            first: the lowest number.
            last: the highest.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        if first > HIGHEST:
            return []
        return await self._ask("read_audit_rows", first, last, PAGE)

    async def checkpoints(self, first: int) -> list[Any]:
        """Return the next checkpoints; none: there is no other.

        Args:
            first: the lowest number.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        if first > HIGHEST:
            return []
        return await self._ask("read_audit_checkpoints", first, _CHECKPOINTS)

    async def keys(self, ring: Ring) -> Keys:
        """Return the data keys as they are now: whatever has been written by now is by one of them.

        For a record is there before its data key is used, and the word of its end when it goes.

        Args:
            ring: of this database.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        await ring.load(anew=True)
        is_all = ring.problem is None and ring.degraded is None
        return Keys(ring.open_keys, await self.ended_words(), is_all=is_all)

    async def ended_words(self) -> list[str]:
        """Return what data keys said of those that were ended, the oldest first.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        return [row["word"] for row in await self._ask("read_ended_words")]

    async def last_checkpoint_under(self, row: int) -> int:
        """Return the number of the last checkpoint that has no row behind this one under it.

        Args:
            row: the number of a row; where there is no such checkpoint, :data:`LOWEST` comes back.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        found = await self._ask("find_audit_checkpoint_under", row)
        return int(found[0]["number"]) if found else LOWEST

    async def tail(self, above: int) -> Any:
        """Return what there is behind the last checkpoint: ``first``, ``last``, ``is_old``.

        Args:
            above: the last row that is under it.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        (found,) = await self._ask("read_audit_tail", above)
        return found

    async def find(self, number: int | None = None, size: int | None = None) -> Any:
        """Return a checkpoint by its number or its size, the last one by neither; None: no such.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        found = await self._ask("find_audit_checkpoint", number, size)
        return found[0] if found else None

    async def checkpoints_before(self, number: int) -> list[Any]:
        """Return the last checkpoints before one, the newest of them first.

        Args:
            number: of that one.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        return await self._ask("list_audit_checkpoints", number, _CHECKPOINTS)

    async def first_since(self, above: int, at: datetime) -> int | None:
        """Return the number of the first row of a time or later; None: there is none.

        Args:
            above: only rows behind this number.
            at: the time.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        found = await self._ask("find_new_audit_row", above, at, seconds=_LOOK_SECONDS)
        return int(found[0]["number"]) if found else None

    async def prune(self) -> Any:
        """Return what the last prune has left; None: there was none.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        found = await self._ask("read_audit_prune")
        return found[0] if found else None

    async def states(self) -> AsyncIterator[list[Any]]:
        """Return, in pages, what the last audited change left of each vault, and what it is now.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        above = ""
        while page := await self._ask("read_audit_states", above, _STATES):
            yield page
            above = page[-1]["user_id"]

    async def _ask(self, name: str, *parameters: Any, seconds: float = 30.0) -> list[Any]:
        async with transaction(self._engine, seconds) as connection:
            await connection.execute(query("open_audit"))
            return list(await connection.fetch(query(name), *parameters))


class Rows:
    """Rows in their order, read in whole pages, however small the steps in which they are taken.

    Args:
        reader: reads them.
        first: the lowest number.
    """

    def __init__(self, reader: Reader, first: int) -> None:
        self._reader = reader
        self._page: Sequence[Any] = ()
        self._at = 0
        self.next = first

    async def take(self, last: int, limit: int) -> AsyncIterator[Sequence[Any]]:
        """Return, in pieces, the rows up to a number.

        Args:
            last: that number.
            limit: how far it may read ahead.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        limit = max(limit, last)
        while True:
            if self._at == len(self._page):
                if self.next > last:
                    return
                self._page = await self._reader.rows(self.next, limit)
                self._at = 0
                self.next = 1 + (limit if len(self._page) < PAGE else self._page[-1]["number"])
            end = bisect_right(self._page, last, lo=self._at, key=_number)
            if end > self._at:
                yield self._page[self._at : end]
            self._at = end
            if end < len(self._page):
                return
