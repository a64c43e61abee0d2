"""Holds a database against the erasure record: whoever is on it has been erased here, too.

An erasure is **due** in a database that has no audit row of it: one that was restored from before.
To say so needs no clock, and who came back after the erasure is not erased again.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.engine import Connection
from custody.db.erasure_record import Erasure, Record, RecordBusy, RecordError, read_record
from custody.db.errors import DatabaseError
from custody.db.queries import query
from custody.db.scope import transaction

PAGE = 10_000
_SECONDS = 30.0
# Longer than an erasure may hold the file: its statements, and its COMMIT.
_BUSY_SECONDS = 120.0
CURE = "run: custody users replay-erasures --yes"

log = structlog.get_logger()


class ErasureDue(DatabaseError):
    """This database is from before the erasure of this user, and does not serve the user."""


async def find_due(connection: Connection, erasures: Sequence[Erasure]) -> list[Erasure]:
    """Return those that a database does not have.

    Args:
        connection: of custody_app or the owner, in a transaction.
        erasures: asked for in pages.
    """
    due: list[Erasure] = []
    for begin in range(0, len(erasures), PAGE):
        page = erasures[begin : begin + PAGE]
        columns = [one.id for one in page], [one.user_id for one in page]
        rows = await connection.fetch(query("find_due_erasures"), *columns)
        due += [page[row["place"] - 1] for row in rows]
    return due


class Erasures:
    """The erasure record of a daemon, and whether the database has all of it.

    Args:
        path: of the file; None: nothing is held against anything.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._record: Record | None = None
        self._of_users: dict[str, list[Erasure]] = {}
        # Whether the database has all of the record, as far as is known.
        self._passed = False
        self._busy_since: float | None = None
        self.problem: str | None = None if path is None else "not looked at yet"

    @property
    def remark(self) -> str | None:
        """What is wrong, and no reason not to serve."""
        if self._record is not None and self._record.is_torn:
            return (
                f"the last line of {self._path} was cut off in writing: that erasure was not made; "
                "the next one takes the line away"
            )
        return None

    def doubt(self) -> None:
        """Have the next look ask for all erasures: the database may be another one by now."""
        self._passed = False

    async def refuse_due(self, connection: Connection, user_id: str) -> None:
        """Refuse a user who was erased, in a database that is from before that.

        Asked of the database itself, in the transaction that reads or changes the vault: so it
        is of the same database, wherever its connection leads, and however lately it was swapped.

        Args:
            connection: in that transaction, before it reads the vault.
            user_id: whose vault.

        Raises:
            ErasureDue: nothing may be read.
        """
        named = self._of_users.get(user_id)
        if named and await find_due(connection, named):
            self.doubt()
            raise ErasureDue(describe(1))

    def names(self, user_id: str) -> bool:
        """Say whether a user is on the record."""
        return user_id in self._of_users

    async def read(self) -> None:
        """Read the file, where it has changed.

        Raises:
            RecordError: it is not to be relied on.
        """
        if self._path is None:
            return
        now = asyncio.get_running_loop().time()
        # What holds the file for longer than an erasure may is none, or is stuck.
        waits = self._busy_since is None or now < self._busy_since + _BUSY_SECONDS
        try:
            record = await asyncio.to_thread(read_record, self._path, self._record, waits=waits)
        except RecordBusy as error:
            self._busy_since = self._busy_since or now
            if self._record is None:
                self.problem = str(error)
            return
        self._busy_since = None
        if record is self._record:
            return
        of_users: dict[str, list[Erasure]] = {}
        for one in record.erasures:
            of_users.setdefault(one.user_id, []).append(one)
        self._record, self._of_users, self._passed = record, of_users, False
        log.info("erasure_record_read", erasures=len(record.erasures), is_torn=record.is_torn)

    async def look(self, engine: AsyncEngine) -> None:
        """Read the file where it has changed, and hold the database against it.

        All of it the first time, and when there is a doubt; else the newest page, since those
        are what a database lacks that is from before.

        Args:
            engine: connections of the role custody_app.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        try:
            await self.read()
        except RecordError as error:
            self._shut("erasure_record_refused", str(error))
            return
        if self._record is None:
            return
        asked = self._record.erasures[-PAGE:] if self._passed else self._record.erasures
        async with transaction(engine, _SECONDS) as connection:
            due = await find_due(connection, asked)
        self._passed = not due
        if due:
            self._shut("erasures_due", describe(len(due)))
        elif self.problem is not None:
            self.problem = None
            log.info("erasures_done", erasures=len(self._record.erasures))

    def _shut(self, event: str, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            log.error(event, problem=problem)


def describe(count: int) -> str:
    """Say that so many erasures are due, and the cure."""
    return (
        f"{count} {'erasure is' if count == 1 else 'erasures are'} on record and not in this "
        f"database, which was restored from before: no vault is served until they are made again; "
        f"{CURE}"
    )
