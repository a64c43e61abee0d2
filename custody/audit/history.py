"""Checkpoints that were kept elsewhere, and whether the log still goes through them."""

from collections.abc import Iterable
from dataclasses import dataclass

from custody.audit.checkpoint import Checkpoint
from custody.audit.findings import Finding, Kind, Report
from custody.audit.merkle import HASH_SIZE, Tree


@dataclass(slots=True)
class Known:
    """A checkpoint that was kept elsewhere: the log must have had this root at this size.

    Args:
        size, root: what it says.
        is_there: whether the log has; None: it did not come so far.
    """

    size: int
    root: bytes
    is_there: bool | None = None


class History:
    """What is known of the log from elsewhere.

    Args:
        known: the checkpoints.
    """

    def __init__(self, known: Iterable[Known]) -> None:
        self._known = sorted(known, key=lambda one: one.size)

    def begin(self, tree: Tree) -> tuple[int, ...]:
        """Begin with a tree, and return the sizes of those that are from before it.

        Args:
            tree: of the rows that are not read.
        """
        before = tuple(one.size for one in self._known if one.size < tree.size)
        self._known = [one for one in self._known if one.size >= tree.size]
        self.extended(tree, b"")
        return before

    def extended(self, tree: Tree, leaves: bytes) -> Tree:
        """Extend a tree, and look at its root at each size of which one is known.

        Args:
            tree: of the rows so far.
            leaves: of the next ones.
        """
        for one in self._known:
            need = (one.size - tree.size) * HASH_SIZE
            if one.is_there is None and 0 <= need <= len(leaves):
                tree, leaves = tree.extended(leaves[:need]), leaves[need:]
                one.is_there = tree.root == one.root
        return tree.extended(leaves)

    def settle(self, said: Checkpoint) -> None:
        """Where rows are damaged, take the word of the log's own checkpoint of the same size.

        Args:
            said: what it says.
        """
        for one in self._known:
            if one.size == said.size:
                one.is_there = one.root == said.root

    def end(self, report: Report) -> None:
        """Say which of them the log has not gone through.

        Args:
            report: what is found goes there.
        """
        for one in self._known:
            if one.is_there:
                continue
            why = "ends before" if one.is_there is None else "is another one at"
            report.add(
                Finding(
                    Kind.HISTORY,
                    f"the log {why} {one.size} rows, of which there is a checkpoint that was kept: "
                    "it was cut off, or this is another history (a restored backup, a failover "
                    "that lost commits, or two primaries make one, too)",
                )
            )
