"""The rows that a prune has kept, held against what it has left."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

from custody.audit.findings import Finding, Kind
from custody.audit.leaf import leaf_of
from custody.audit.merkle import Tree
from custody.audit.pruned import Counted, Left

_number = itemgetter("number")


class KeptRows:
    """Takes all rows up to the checkpoint of a prune, in the order of their numbers.

    Args:
        left: what the prune has left.
    """

    def __init__(self, left: Left) -> None:
        self._said = left.said
        self.kept, self.rest = Tree(), left.passed
        self._first = 1

    def add(self, rows: Sequence[Any]) -> None:
        """Take the next rows."""
        self._first = min(self._first, rows[0]["number"])
        border = bisect_right(rows, self._said.up_to, key=_number)
        leaves = [leaf_of(row) for row in rows]
        self.kept = self.kept.extended(b"".join(leaves[:border]))
        self.rest = self.rest.extended(b"".join(leaves[border:]))

    def findings(self) -> Iterator[Finding]:
        """Say where they are not those that were kept."""
        said = self._said
        yield from _held(self.kept, said.kept, (self._first, said.up_to))
        yield from _held(self.rest, said.whole, (said.up_to + 1, said.last_row))


def _held(tree: Tree, said: Counted, numbers: tuple[int, int]) -> Iterator[Finding]:
    more = tree.size - said.size
    if more > 0:
        yield Finding(Kind.ADDED, f"{more} rows more than the last prune has kept", numbers)
    elif more:
        yield Finding(
            Kind.MISSING, f"{-more} of the rows that the last prune kept are gone", numbers
        )
    elif tree.root != said.root:
        message = "not the rows that the last prune has kept: some were edited, moved or replaced"
        yield Finding(Kind.CHANGED, message, numbers)
