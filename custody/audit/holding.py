"""Whether exports hold rows: the Merkle tree over their lines is that of a checkpoint."""

import heapq
import json
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from typing import Any

from custody.audit.events import Action
from custody.audit.export import CHECKPOINT_HEAD
from custody.audit.exported import as_row
from custody.audit.head import Head
from custody.audit.keys import Word
from custody.audit.leaf import leaf_of
from custody.audit.merkle import Tree
from custody.audit.pruned import Counted

# So many rows at most go in one transaction, where checkpoints allow it.
_STEP = 5000

_STDIN = Path("-")

_number = itemgetter("number")


class NotHeld(Exception):
    """Exports do not hold the rows that are to go, or the rows are not what was sealed."""


class CantSign(NotHeld):
    """No data key is open here that could judge the log, and sign what is left of it."""


class Holding:
    """Goes through exports, from checkpoint to checkpoint.

    Args:
        rows: of all exports, in the order of their numbers, each with its leaf.
        tree: over the rows that went before.
        last_row: of these.
    """

    def __init__(self, rows: Iterator[dict[str, Any]], tree: Tree, last_row: int) -> None:
        self._rows, self.tree, self.last_row = rows, tree, last_row
        self._next = next((row for row in rows if row["number"] > last_row), None)
        # The last row that says what a change left, of each user who has one.
        self.newest: dict[str, int] = {}
        self.erasures: list[tuple[str, int]] = []
        # The first row that says so of what a prune has left, by the digest of its note.
        self.prunes: dict[str, dict[str, Any]] = {}
        # Up to which checkpoints rows go, step by step.
        self.steps: list[Head] = []
        # Since the last checkpoint that fits.
        self._held: dict[int, bytes] = {}
        self._begin = tree.size
        self._candidate: Head | None = None

    def take(self, head: Head) -> dict[int, bytes] | None:
        """Hold the rows up to the next checkpoint against it; return them where they don't hold.

        One by a data key that is not open may be anybody's: that is passed over where it does not
        fit.

        Args:
            head: the checkpoint.
        """
        leaves = {}
        while self._next is not None and self._next["number"] <= head.checkpoint.last_row:
            row, self._next = self._next, next(self._rows, None)
            leaves[row["number"]] = row["leaf"]
            if row["action"] == Action.PRUNE:
                self.prunes.setdefault(row["context"], row)
            elif row["action"] == Action.ERASE:
                self.erasures.append((row["user_id"], row["number"]))
            if row["state"] is not None:
                self.newest[row["user_id"]] = row["number"]
        self.tree = self.tree.extended(b"".join(leaves.values()))
        self._held |= leaves
        if Counted.of(self.tree) != head.checkpoint[1:3]:
            return self._held if head.word is Word.OURS else None
        self._held = {}
        self.last_row = head.checkpoint.last_row
        self._plan(head)
        return None

    def end(self) -> Head | None:
        """Note that no checkpoint comes any more, and return the last one."""
        if self._candidate is not None:
            self.steps.append(self._candidate)
        return self._candidate

    @property
    def kept(self) -> int:
        """How many of the rows stay, if the rest goes."""
        erased = sum(self.newest.get(user) != number for user, number in self.erasures)
        return len(self.newest) + erased

    def keeps(self, row: Any) -> bool:
        """Say whether a row stays: it says how a vault was left, or that one was erased."""
        return row["action"] == Action.ERASE or (
            row["state"] is not None and self.newest.get(row["user_id"]) == row["number"]
        )

    def supersedes(self, row: Any) -> bool:
        """Say whether a row of before is of no use any more: a newer one says more of the user."""
        return row["action"] != Action.ERASE and row["user_id"] in self.newest

    def _plan(self, head: Head) -> None:
        before = self._candidate
        if before is not None and head.checkpoint.size - self._begin > _STEP:
            self.steps.append(before)
            self._begin = before.checkpoint.size
        self._candidate = head


def exported_rows(paths: Sequence[Path], files: ExitStack) -> Iterator[dict[str, Any]]:
    """Return the rows of exports in the order of their numbers, each once, with its leaf.

    Which of two lines with one number comes is of no matter: what they say is not believed.

    Args:
        paths: of exports in JSON Lines, each in the order of numbers; ``-`` is standard input.
        files: where they are left open.

    Raises:
        OSError: one can't be read.
        NotHeld: a line is none of an export.
    """
    exports = [
        _rows_of(
            path,
            sys.stdin.buffer if path == _STDIN else files.enter_context(path.open("rb")),
        )
        for path in paths
    ]
    last = None
    for row in heapq.merge(*exports, key=_number):
        if last is None or row["number"] > last:
            yield row
        last = row["number"]


def _rows_of(path: Path, lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    last = None
    for count, line in enumerate(lines, 1):
        # A last line that was torn is one that the export has yet to write.
        if line.startswith(CHECKPOINT_HEAD) or not line.endswith(b"\n"):
            continue
        try:
            row = as_row(json.loads(line))
            row["leaf"] = leaf_of(row)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, struct.error):
            raise NotHeld(f"{path}, line {count}: no row of an export in JSON Lines") from None
        # What was sent twice, after a break, comes again behind later rows.
        if last is None or row["number"] > last:
            last = row["number"]
            yield row
