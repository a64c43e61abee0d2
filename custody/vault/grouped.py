"""Group commit for the two statements of the hot path.

The database reads and writes each row in the scope of its own user, one after the other
(``sql/migrations``, 0008 to 0010); each row that comes back is checked against the user who asked.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit.events import Event
from custody.audit.row_seal import RowSeals
from custody.audit.writer import write_together
from custody.db.clock import DatabaseClock
from custody.db.commit import refuse_demoted, refuse_unreplicated
from custody.db.engine import Connection
from custody.db.errors import DatabaseError
from custody.db.group_commit import GroupCommit, NotBatched
from custody.db.queries import query
from custody.db.scope import COMMIT_MARGIN_SECONDS
from custody.deadline import Deadline
from custody.vault.model import Found

Served: TypeAlias = Callable[[int, float], None]


class WrongRow(DatabaseError):
    """The database answered with another user's row."""


class GroupedRows:
    """Reads vaults and writes audit rows, those of concurrent requests together.

    Args:
        engine: connections of the role custody_app.
        seals: make the seals of audit rows.
        served: returns, for ``read`` and ``record``, what is told of each batch; see
            :class:`GroupCommit`.
    """

    def __init__(
        self, engine: AsyncEngine, seals: RowSeals, served: Callable[[str], Served]
    ) -> None:
        self._seals = seals
        self._clock = DatabaseClock()
        self._reads = GroupCommit(engine, self._read_all, served("read"))
        self._records = GroupCommit(engine, self._record_all, served("record"))

    def read(self, user_id: str, deadline: Deadline) -> Awaitable[Found]:
        """Read a user's row, as it is after this call began.

        Raises:
            NotBatched: read it in a transaction of its own.
            DatabaseError: as :meth:`custody.db.group_commit.GroupCommit.ask`.
        """
        return self._reads.ask(user_id, deadline)

    def record(self, event: Event, deadline: Deadline) -> Awaitable[None]:
        """Commit an audit row.

        Raises:
            NotBatched: nothing was recorded; record it in a transaction of its own.
            DatabaseError: as :meth:`custody.db.group_commit.GroupCommit.ask`.
        """
        return self._records.ask(event, deadline)

    async def close(self) -> None:
        """Give connections back."""
        await self._reads.close()
        await self._records.close()

    async def _read_all(
        self, connection: Connection, user_ids: Sequence[str], _earliest: Deadline
    ) -> list[Found]:
        rows = await connection.fetch(query("read_vaults"), user_ids)
        refuse_demoted(connection)
        if len(rows) != len(user_ids):
            raise WrongRow
        self._clock.observe(rows[0]["clock"])
        found: list[Found] = []
        for place, (user_id, row) in enumerate(zip(user_ids, rows, strict=True), start=1):
            if row["place"] != place or row["user_id"] not in (user_id, None):
                raise WrongRow
            is_there = row["user_id"] is not None
            found.append(Found(row if is_there else None, row["known"], row["clock"]))
        return found

    async def _record_all(
        self, connection: Connection, events: Sequence[Event], earliest: Deadline
    ) -> list[None]:
        deadline = self._clock.at(earliest.at - COMMIT_MARGIN_SECONDS)
        if deadline is None:
            raise NotBatched
        await write_together(connection, events, deadline, self._seals)
        refuse_unreplicated(connection)
        return [None] * len(events)
