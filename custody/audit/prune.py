"""Prunes the audit: lets go of the rows up to a checkpoint, which exports hold.

Each transaction is short, and leaves a log that verifies, with a note that says what is gone. So a
prune may be broken off at any moment, and run again. Which rows stay was proved before
(:mod:`custody.audit.prune_plan`), by an export that a data key has signed: whoever writes the
tables meanwhile makes no other row stay, or go, without the log failing to verify.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit.events import Action, Event, event_id
from custody.audit.head import Head
from custody.audit.holding import CantSign, NotHeld
from custody.audit.leaf import leaf_of
from custody.audit.merkle import Tree
from custody.audit.prune_plan import SEE, Plan
from custody.audit.pruned import Counted, Pruned, digest_of, signed
from custody.audit.reading import Reader, Rows
from custody.audit.row_seal import RowSeals
from custody.audit.writer import write
from custody.datakeys.ring import Ring
from custody.db.engine import Connection
from custody.db.errors import Busy
from custody.db.queries import query
from custody.db.scope import transaction


class Prune:
    """One prune.

    Args:
        engine: connections of the schema's owner.
        reader: reads by the same.
        ring: the data keys; the current one signs.
        plan: what is to be done.
    """

    def __init__(self, engine: AsyncEngine, reader: Reader, ring: Ring, plan: Plan) -> None:
        self._engine, self._reader, self._ring, self._plan = engine, reader, ring, plan
        left = plan.base.left
        self._note = None if left is None else left.note
        self._tree, self._kept, self._last_row = plan.base.tree, plan.kept, plan.base.last_row

    async def run(self, advance: Callable[[int], None] = lambda _count: None) -> None:
        """Do all of it.

        Args:
            advance: told how many rows are done, each time.

        Raises:
            CantSign: no data key is open any more.
            NotHeld: the log is not what was sealed; what is gone by then, the exports hold.
            Busy: another prune runs, or rows are locked by somebody.
            DatabaseError: the database can't be asked now.
        """
        # Rows of before go once newer ones say more, which are there until all of these are gone.
        for said, passed, numbers in self._plan.thinnings:
            async with self._leaving(said, passed) as connection:
                await _delete(connection, numbers)
        for head in self._plan.holding.steps:
            advance(await self._step(head))

    async def _step(self, head: Head) -> int:
        """Let go of the rows up to one more checkpoint; return how many they were."""
        first, last = self._last_row + 1, head.checkpoint.last_row
        rows = [
            (row, leaf_of(row))
            async for page in Rows(self._reader, first).take(last, last)
            for row in page
        ]
        tree = self._tree.extended(b"".join([leaf for _, leaf in rows]))
        if tree != head.tree:
            raise NotHeld(f"rows {first} to {last} are not what was sealed; {SEE}")
        keeps = self._plan.holding.keeps
        kept = self._kept.extended(b"".join([leaf for row, leaf in rows if keeps(row)]))
        said = Pruned.at(head.checkpoint, head.number, Counted.of(kept))
        async with self._leaving(said, Tree()) as connection:
            await _delete(connection, [row["number"] for row, _ in rows if not keeps(row)])
            await connection.execute(query("prune_audit_checkpoints"), head.number)
        self._tree, self._kept, self._last_row = tree, kept, last
        return len(rows)

    @asynccontextmanager
    async def _leaving(self, said: Pruned, passed: Tree) -> AsyncIterator[Connection]:
        """Open a transaction that leaves so much, and an audit row that says so.

        The note comes first: of two prunes at once, one waits for it, and then finds another one.
        The row is what shows that the note is ours once its data key was ended.
        """
        key = self._ring.current
        if key is None:
            raise CantSign("no data key is open here any more")
        note = signed(said, key)
        async with transaction(self._engine) as connection:
            await connection.execute(query("open_audit_prune"))
            done = await connection.execute(
                query("put_audit_prune"), said.checkpoint, passed.hashes, note, self._note
            )
            if done != "INSERT 0 1":
                raise Busy("the audit was pruned by somebody else meanwhile; run it again")
            yield connection
            event = Event(event_id(), "", None, None, Action.PRUNE, digest_of(note), 200)
            await write(connection, event, RowSeals(self._ring))
        self._note = note


async def _delete(connection: Connection, numbers: list[int]) -> None:
    done = await connection.execute(query("prune_audit_rows"), numbers)
    if done != f"DELETE {len(numbers)}":
        raise NotHeld(f"rows are gone that were there a moment ago; {SEE}")
