"""Holds a database against the erasure record: whoever is on it has been erased here, too.

An erasure is **due** in a database that has no audit row of it: one that was restored from before.
To say so needs no clock, and who came back after the erasure is not erased again.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
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
_READ_SECONDS = 1.0
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
        # Whether the database has all of the record, as far as is known.
        self._passed = False
        self._busy_since: float | None = None
        self._one_at_a_time = asyncio.Lock()
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
        if self._record is None or (named := self._record.of_users.get(user_id)) is None:
            return
        if await find_due(connection, named):
            self.doubt()
            raise ErasureDue(describe(1))

    def names(self, user_id: str) -> bool:
        """Say whether a user is on the record."""
        return self._record is not None and user_id in self._record.of_users

    async def read(self) -> None:
        """Read the file, where it has changed.

        Raises:
            RecordError: it is not to be relied on.
        """
        if self._path is None:
            return
        async with self._one_at_a_time:
            await self._read(self._path)

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Read the file again and again for the length of the block, as soon as it has changed.

        A look comes later: until then whoever is new on the record is held against the database.
        """
        if self._path is None:
            yield
            return
        task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            task.cancel()

    async def _read(self, path: Path) -> None:
        now = asyncio.get_running_loop().time()
        # What holds the file for longer than an erasure may is none, or is stuck.
        waits = self._busy_since is None or now < self._busy_since + _BUSY_SECONDS
        try:
            record = await asyncio.to_thread(read_record, path, self._record, waits=waits)
        except RecordBusy as error:
            self._busy_since = self._busy_since or now
            if self._record is None:
                self.problem = str(error)
            return
        self._busy_since = None
        if record is not self._record:
            self._record, self._passed = record, False
            log.info("erasure_record_read", erasures=len(record.erasures), is_torn=record.is_torn)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_READ_SECONDS)
            with suppress(RecordError):  # the look says it
                await self.read()

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
            if self._turns(str(error)):
                log.error("erasure_record_refused", problem=self.problem)  # noqa: TRY400
            return
        if self._record is None:
            return
        asked = self._record.erasures[-PAGE:] if self._passed else self._record.erasures
        # A doubt that comes while the database is asked stays one.
        self._passed = True
        try:
            async with transaction(engine, _SECONDS) as connection:
                due = await find_due(connection, asked)
        except BaseException:
            self._passed = False
            raise
        if due:
            self._passed = False
            if self._turns(describe(len(due))):
                log.error("erasures_due", problem=self.problem)
        elif self._turns(None):
            log.info("erasures_done", erasures=len(self._record.erasures))

    def _turns(self, problem: str | None) -> bool:
        """Take note of what is wrong now, and say whether that is news."""
        is_new, self.problem = problem != self.problem, problem
        return is_new


def describe(count: int) -> str:
    """Say that so many erasures are due, and the cure."""
    return (
        f"{count} {'erasure is' if count == 1 else 'erasures are'} on record and not in this "
        f"database, which was restored from before: no vault is served until they are made again; "
        f"{CURE}"
    )
