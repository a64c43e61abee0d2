"""What a prune is to do, proved to be right before the first row goes."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from custody.audit.head import Head, head_of
from custody.audit.holding import Holding, NotHeld
from custody.audit.kept import KeptRows
from custody.audit.keys import Keys, Word
from custody.audit.leaf import leaf_of
from custody.audit.merkle import Tree
from custody.audit.pruned import NONE, Counted, Left, Pruned, left_of
from custody.audit.reading import HIGHEST, LOWEST, Reader, Rows

SEE = "see: custody audit verify"


class Base(NamedTuple):
    """Where a prune begins: behind the last one, or at the first row.

    Args:
        left: what the last prune has left; None: there was none.
        number, last_row, tree: of the checkpoint up to which it went.
    """

    left: Left | None = None
    number: int = 0
    last_row: int = 0
    tree: Tree = Tree()


class Thinning(NamedTuple):
    """A page of the rows that the last prune has kept, some of which go.

    Args:
        said: what is left then.
        passed: the tree over those that were gone through.
        numbers: of those that go.
    """

    said: Pruned
    passed: Tree
    numbers: list[int]


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Args:
        base: where it begins.
        target: the checkpoint up to which rows go.
        holding: which rows the exports hold, and which of them stay.
        thinnings: what goes of the rows that the last prune has kept.
        kept: the tree over those of them that stay.
    """

    base: Base
    target: Head
    holding: Holding
    thinnings: list[Thinning]
    kept: Tree

    @property
    def stays(self) -> int:
        """How many rows stay of all those up to the target."""
        return self.kept.size + self.holding.kept

    @property
    def goes(self) -> int:
        """How many rows go."""
        new = self.target.checkpoint.size - self.base.tree.size - self.holding.kept
        return new + sum(len(one.numbers) for one in self.thinnings)


class Planning:
    """Makes plans.

    Args:
        reader: reads the database.
        keys: the data keys as they are now.
    """

    def __init__(self, reader: Reader, keys: Keys) -> None:
        self._reader, self._keys = reader, keys

    async def base(self) -> Base:
        """Return where a prune begins.

        Raises:
            NotHeld: what the last one has left is not what was signed.
            DatabaseError: the database can't be asked now.
        """
        stored = await self._reader.prune()
        if stored is None:
            return Base()
        left = left_of(stored, self._keys)
        if left is None or left.word is Word.UNKNOWN:
            raise NotHeld(
                f"what the last prune has left is not ours, as far as is seen here; {SEE}"
            )
        found = await self._reader.find(number=left.said.checkpoint)
        head = None if found is None else head_of(found, self._keys)
        if head is None or head.checkpoint != left.said.head:
            raise NotHeld(f"the checkpoint of the last prune is gone, or is another one; {SEE}")
        return Base(left, head.number, left.said.last_row, head.tree)

    async def target(self, base: Base, before: datetime) -> Head | None:
        """Return the newest checkpoint of ours all of whose rows are from before a time.

        Args:
            base: where the prune begins.
            before: the time.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        new = await self._reader.first_since(base.last_row, before)
        under = await self._reader.last_checkpoint_under(HIGHEST if new is None else new - 1)
        while under > base.number:
            page = await self._reader.checkpoints_before(under + 1)
            for stored in page:
                head = head_of(stored, self._keys)
                if head is not None and head.word is Word.OURS and head.number > base.number:
                    return head
            under = page[-1]["number"] - 1 if page else base.number
        return None

    async def plan(
        self,
        base: Base,
        target: Head,
        exported: Iterator[dict[str, Any]],
        advance: Callable[[int], None] = lambda _count: None,
    ) -> Plan:
        """Prove that exports hold all rows that are to go, and find which ones stay.

        Args:
            base: where the prune begins.
            target: the checkpoint up to which rows go.
            exported: the rows of all exports, as ``exported_rows`` returns them.
            advance: told how many rows are proved, each time.

        Raises:
            NotHeld: they don't, or the log is not what was sealed.
            OSError: an export can't be read.
            DatabaseError: the database can't be asked now.
        """
        holding = Holding(exported, base.tree, base.last_row)
        async for head in self._heads(base.number, target.number):
            size, first = holding.tree.size, holding.last_row + 1
            if (held := holding.take(head)) is not None:
                raise await self._not_held(held, first, head.checkpoint.last_row)
            advance(holding.tree.size - size)
        if holding.end() != target:
            raise NotHeld(f"checkpoints are gone that were there a moment ago; {SEE}")
        kept, thinnings = Tree(), list[Thinning]()
        if base.left is not None:
            row = holding.prunes.get(base.left.digest)
            if base.left.word is not Word.OURS and not self._is_from_before_an_end(row):
                raise NotHeld(f"nothing shows that the last prune is ours; {SEE}")
            kept, thinnings = await self._thin(base.left, holding)
        return Plan(base, target, holding, thinnings, kept)

    def _is_from_before_an_end(self, row: dict[str, Any] | None) -> bool:
        """Say whether a row, which the log has, was written while a data key had not been ended."""
        return (
            row is not None and row["seal"] is not None and self._keys.was_sealed_before_an_end(row)
        )

    async def _heads(self, number: int, last: int) -> AsyncIterator[Head]:
        """Return the checkpoints behind a number that may be ours."""
        while number < last and (page := await self._reader.checkpoints(number + 1)):
            for stored in page:
                number = stored["number"]
                head = head_of(stored, self._keys)
                if number <= last and head is not None and head.word is not Word.NOBODY:
                    yield head

    async def _not_held(self, held: dict[int, bytes], first: int, last: int) -> NotHeld:
        """Say which row the exports lack, or have otherwise than the log has it."""
        rows = Rows(self._reader, first)
        there = {
            row["number"]: leaf_of(row) async for page in rows.take(last, last) for row in page
        }
        for number in sorted(there.keys() | held.keys()):
            if number not in held:
                return NotHeld(f"no export has row {number}; nothing was deleted")
            if number not in there:
                return NotHeld(
                    f"an export has a row {number}, and there is none here; nothing was deleted; "
                    f"{SEE}"
                )
            if there[number] != held[number]:
                return NotHeld(f"row {number} is another one in the export; nothing was deleted")
        return NotHeld(
            f"rows {first} to {last} are not what was sealed, in the export and here alike; "
            f"nothing was deleted; {SEE}"
        )

    async def _thin(self, left: Left, holding: Holding) -> tuple[Tree, list[Thinning]]:
        """Find which of the rows that the last prune has kept go, page by page.

        Held against its note, and taken from there: whoever edits one meanwhile has it signed by
        nobody.
        """
        said, passed, held = left.said, left.passed, KeptRows(left)
        if said.passed == said.whole:
            # It came to its end: all that it has kept is gone through anew.
            said, passed = said._replace(up_to=0, passed=NONE, whole=said.kept), Tree()
        kept, thinnings = Tree(), []
        rows = Rows(self._reader, LOWEST)
        async for page in rows.take(said.up_to, said.last_row):
            held.add(page)
            kept = kept.extended(_leaves(page))
        async for page in rows.take(said.last_row, said.last_row):
            held.add(page)
            passed = passed.extended(_leaves(page))
            kept = kept.extended(_leaves([row for row in page if not holding.supersedes(row)]))
            if numbers := [row["number"] for row in page if holding.supersedes(row)]:
                said = said._replace(
                    kept=Counted.of(kept), up_to=page[-1]["number"], passed=Counted.of(passed)
                )
                thinnings.append(Thinning(said, passed, numbers))
        for finding in held.findings():
            raise NotHeld(f"{finding.message}; nothing was deleted; {SEE}")
        return kept, thinnings


def _leaves(rows: Sequence[Any]) -> bytes:
    return b"".join([leaf_of(row) for row in rows])
