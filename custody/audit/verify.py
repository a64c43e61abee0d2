"""Verifies the audit: rows, checkpoints, and the vaults that they speak of."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from custody.audit.findings import Finding, Kind, Report
from custody.audit.head import head_of
from custody.audit.history import Known
from custody.audit.kept import KeptRows
from custody.audit.keys import Word
from custody.audit.pruned import Left, left_of
from custody.audit.reading import LOWEST, Reader, Rows
from custody.audit.row_seal import RowSeals
from custody.audit.walk import Walk
from custody.datakeys.ring import Ring
from custody.db.errors import Busy

# Every row is under a checkpoint within this time; a clock that was stepped may say otherwise.
PATIENCE_SECONDS = 120.0
_LOOK_SECONDS = 1.0


class NoSuchCheckpoint(Exception):
    """There is no checkpoint to begin behind."""


class PrunedMeanwhile(Busy):
    """The audit was pruned while it was verified: what was found may be of both."""


class Verification:
    """One look at the whole audit, or at what came since a checkpoint.

    Args:
        reader: reads the database.
        ring: the data keys, loaded.
        compare: holds vaults against what their audit rows say; returns how many have none.
        advance: told how many rows were read, each time.
        wait: told that rows are waited for, once.
        patience: seconds that rows which look old have until they are under a checkpoint.
        at_rest: the database may be a copy that nobody seals: how old rows without a checkpoint are
            is counted from the newest of them, and nothing is waited for.
    """

    def __init__(
        self,
        reader: Reader,
        ring: Ring,
        compare: Callable[[list[Any], Report], int],
        *,
        advance: Callable[[int], None] = lambda _count: None,
        wait: Callable[[], None] = lambda: None,
        patience: float = PATIENCE_SECONDS,
        at_rest: bool = False,
    ) -> None:
        self._reader, self._ring, self._compare = reader, ring, compare
        self._advance, self._wait, self._patience = advance, wait, patience
        self._at_rest = at_rest
        self.report = Report()

    async def run(self, since: Any = None, known: Sequence[Known] = ()) -> Report:
        """Go through all of it.

        Args:
            since: the row of the checkpoint to begin behind; None: at the beginning.
            known: checkpoints that were kept elsewhere.

        Raises:
            NoSuchCheckpoint: the one to begin behind is not good.
            PrunedMeanwhile: it is to be verified again.
            DatabaseError: the database can't be asked now.
        """
        pruned = await self._reader.prune()
        walk = Walk(RowSeals(self._ring), await self._reader.keys(self._ring), self.report, known)
        if since is not None and not walk.begin_behind(since):
            raise NoSuchCheckpoint
        if (problem := self._ring.problem or self._ring.degraded) is not None:
            self.report.unseen.append(f"seals and signatures, or some of them: {problem}")
        rows = Rows(self._reader, LOWEST if since is None else walk.last_row + 1)
        left = None
        if since is None and pruned is not None:
            left = await self._begin_behind_prune(walk, rows, pruned)
        until = asyncio.get_running_loop().time() + self._patience
        await self._follow(walk, rows)
        tail = await self._reader.tail(walk.last_row)
        while tail["is_old"] and not self._at_rest and await self._sealed_before(until, walk):
            await self._follow(walk, rows)
            tail = await self._reader.tail(walk.last_row)
        # Of that moment: what has come since had no time to come under a checkpoint.
        await self._end(walk, rows, tail)
        if left is not None:
            self._judge_prune(left, walk)
        await self._vaults()
        if await self._reader.prune() != pruned:
            raise PrunedMeanwhile("the audit was pruned while it was verified; run it again")
        return self.report

    async def _begin_behind_prune(self, walk: Walk, rows: Rows, stored: Any) -> Left | None:
        """Hold what a prune has kept against its note, and begin behind its checkpoint."""
        left = left_of(stored, walk.keys)
        if left is None:
            self._find_prune("what the last prune has left was edited, or is not ours")
            return None
        said = left.said
        first = (await self._reader.checkpoints(LOWEST))[:1]
        if first and first[0]["number"] < said.checkpoint:
            self._find_prune("there are checkpoints from before the last prune: they were put in")
        begin = await self._reader.find(number=said.checkpoint)
        head = None if begin is None else head_of(begin, walk.keys)
        if head is None or head.checkpoint != said.head or not walk.begin_behind(begin):
            message = "the checkpoint of the last prune is gone, or is another one"
            self._find_prune(message, said.checkpoint)
            return None
        kept = KeptRows(left)
        async for page in rows.take(said.last_row, said.last_row):
            walk.judge(page)
            kept.add(page)
            self._advance(len(page))
        for finding in kept.findings():
            self.report.add(finding)
        self.report.notices.append(
            f"rows up to {said.last_row}, checkpoint {said.checkpoint}, were pruned: of those that "
            f"there were {said.left} were kept"
        )
        return left

    def _judge_prune(self, left: Left, walk: Walk) -> None:
        """Say what is open of the note of a prune that no data key has signed which is open here.

        Of one by a data key that was ended the log itself tells: it has a row of that prune. For
        who knows such a key signs what he likes, but adds no row from before its end.
        """
        if left.word is Word.UNKNOWN:
            self.report.unseen.append("the last prune is signed by a key that is not open here")
        elif left.word is Word.ENDED and left.digest not in walk.prunes:
            self._find_prune(
                "the last prune is signed by a data key that was ended, and there is no row of it: "
                "somebody who has that key made it up"
            )

    def _find_prune(self, message: str, checkpoint: int | None = None) -> None:
        self.report.add(Finding(Kind.PRUNE, message, checkpoint=checkpoint))

    async def _follow(self, walk: Walk, rows: Rows) -> None:
        """Go on to the last checkpoint that there is by now."""
        while page := await self._reader.checkpoints(walk.number + 1 if walk.number else LOWEST):
            walk.keys = await self._reader.keys(self._ring)
            limit = max(stored["last_row"] for stored in page)
            for stored in page:
                async for piece in rows.take(stored["last_row"], limit):
                    walk.add(piece)
                    self._advance(len(piece))
                walk.close(stored)

    async def _sealed_before(self, until: float, walk: Walk) -> bool:
        """Wait until there is another checkpoint; False: there was none in time.

        Where something is wrong already, nobody waits.
        """
        clock = asyncio.get_running_loop().time
        if self.report.counts:
            return False
        self._wait()
        while clock() < until:
            await asyncio.sleep(_LOOK_SECONDS)
            if await self._reader.checkpoints(walk.number + 1):
                return True
        return False

    async def _end(self, walk: Walk, rows: Rows, tail: Any) -> None:
        """Judge what is behind the last checkpoint, and say what is left open."""
        if tail["count"]:
            numbers = (tail["first"], tail["last"])
            walk.keys = await self._reader.keys(self._ring)
            async for piece in rows.take(tail["last"], tail["last"]):
                walk.add(piece)
                self._advance(len(piece))
            if tail["spans_long" if self._at_rest else "is_old"]:
                message = (
                    f"{tail['count']} rows are under no checkpoint, and some have been there for "
                    "more than two minutes, or are of the future: no daemon makes checkpoints, and "
                    "nothing shows whether rows are missing among these"
                )
                self.report.add(Finding(Kind.TAIL, message, numbers))
            else:
                new = "the last before this copy, or new" if self._at_rest else "they are new"
                self.report.notices.append(
                    f"{tail['count']} rows are not under a checkpoint yet: {new}"
                )
        walk.end()
        if walk.without_seal:
            self.report.notices.append(
                f"{walk.without_seal} rows have no seal: from before there were seals, refusals "
                "while no data key was open, erasures"
            )
        if walk.judged_by_tree:
            self.report.notices.append(
                f"{walk.judged_by_tree} rows have a seal by a data key that was ended: the "
                "checkpoints alone say that they are as they were"
            )

    async def _vaults(self) -> None:
        unaudited = 0
        async for page in self._reader.states():
            unaudited += self._compare(page, self.report)
        if unaudited:
            self.report.notices.append(
                f"{unaudited} vaults have not changed since audit rows say what a change left"
            )
        if self.report.gone:
            self.report.notices.append(
                f"{self.report.gone} vaults are gone with their accounts, which somebody else keeps"
            )
