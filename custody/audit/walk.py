"""Goes through the audit from checkpoint to checkpoint, and holds the rows against each."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from custody.audit.checkpoint import Checkpoint
from custody.audit.events import ERASED, Action
from custody.audit.findings import Finding, Kind, Report
from custody.audit.head import kept_tree
from custody.audit.history import History, Known
from custody.audit.keys import Keys, Word
from custody.audit.leaf import leaf_of
from custody.audit.merkle import Tree

# Refusals are recorded where no data key is open, and erasures by an owner who has none.
_REFUSED = 400
_UNVERIFIED = "unverified-seal"


class Judge(Protocol):
    """Judges the seals of rows, as :class:`custody.audit.row_seal.RowSeals` does."""

    def judge(self, row: Mapping[str, Any]) -> bool | None:
        """Say whether a row's seal holds; None: its data key is not open here."""


class Walk:
    """A walk through the log: rows are given to it, and the checkpoints between them.

    Behind a checkpoint that does not fit it goes on from what that one says of the tree, so that
    damage further on is found as well.

    Args:
        judge: of the rows' own seals.
        keys: the data keys, as they are when what is given to it has been written.
        report: what is found goes there.
        known: checkpoints that were kept elsewhere.
    """

    def __init__(
        self,
        judge: Judge,
        keys: Keys,
        report: Report,
        known: Sequence[Known] = (),
    ) -> None:
        self._judge, self.keys, self._report = judge, keys, report
        self._history = History(known)
        self._tree = Tree()
        self._history.begin(self._tree)
        # The last checkpoint, and up to where rows were compared.
        self.number = self.last_row = 0
        self._size = 0
        self._compared = 0
        self._note = ""
        self._origin: str | None = None
        # Those by a data key that may be ours and is not open here: they wait for one by ours.
        self._waiting: list[int] = []
        self._unjudged = 0
        self.without_seal = 0
        self.judged_by_tree = 0
        # The digests of what prunes have left, as rows by data keys say that were ended since.
        self.prunes: set[str] = set()

    def begin_behind(self, stored: Any) -> bool:
        """Begin behind a checkpoint, whose word is taken for what is before; False: it can't be.

        Args:
            stored: its row.
        """
        said, word = self.keys.read(stored["note"])
        tree = None if said is None else kept_tree(stored, said)
        if said is None or word is Word.NOBODY or tree is None:
            return False
        self._tree = tree
        self._report.unseen += [
            f"the checkpoint that was kept at {size} rows is from before the first that is read"
            for size in self._history.begin(tree)
        ]
        self._origin, self._size, self._note = said.origin, said.size, stored["note"]
        self.number, self.last_row = stored["number"], stored["last_row"]
        self._compared = self.last_row
        self._report.size = said.size
        if word is Word.UNKNOWN:
            self._waiting.append(self.number)
        return True

    def add(self, rows: Sequence[Any]) -> None:
        """Take the next rows.

        Args:
            rows: in the order of their numbers, as ``read_audit_rows`` reads them.
        """
        self.judge(rows)
        self._tree = self._history.extended(self._tree, b"".join([leaf_of(row) for row in rows]))

    def judge(self, rows: Sequence[Any]) -> None:
        """Judge rows by their own seals.

        Args:
            rows: as :meth:`add` takes them.
        """
        for row in rows:
            if row["seal"] is None:
                self._without_seal(row)
            elif (holds := self._judge.judge(row)) is None:
                self._by_another_key(row)
            elif not holds:
                self._find_row(Kind.ROW, "was edited or forged: its own seal does not hold", row)
        self._report.rows += len(rows)

    def close(self, stored: Any) -> None:
        """Hold all rows up to here against the next checkpoint.

        Args:
            stored: its row.
        """
        self._report.checkpoints += 1
        number = stored["number"]
        if number != self.number + 1:
            self._find(
                Kind.GAP, f"stands where {self.number + 1} should be: some are missing", stored
            )
        self.number = number
        said, word = self.keys.read(stored["note"])
        if said is None or word is Word.NOBODY:
            self._find(
                Kind.CHECKPOINT,
                "was edited, or is not ours: its note is none, its signature does not hold, or it "
                "is by no data key of ours",
                stored,
            )
            return
        # A new data key soon signs one of its own, whether there are rows or not.
        is_same = stored["note"] == self._note
        if said.size < self._size or stored["last_row"] < self.last_row or is_same:
            self._find(
                Kind.BACK,
                f"goes back, from {self._size} rows to {said.size}: an older one in its place",
                stored,
            )
            return
        self._hold_against(stored, said, word)

    def end(self) -> None:
        """Say what could not be seen, and what is left open behind the last checkpoint."""
        if self._waiting:
            first, last = self._waiting[0], self._waiting[-1]
            self._report.unseen.append(
                f"checkpoints {first} to {last} are signed by a key that is not open here, and no "
                "later one that is ours covers them"
            )
        if self._unjudged:
            self._report.unseen.append(
                f"{self._unjudged} rows have a seal by a data key that is not open here"
            )
        self._history.end(self._report)

    def _hold_against(self, stored: Any, said: Checkpoint, word: Word) -> None:
        if self._origin is None:
            self._origin = said.origin
        elif said.origin != self._origin:
            self._find(Kind.ORIGIN, "is of another log: its origin is another one", stored)
        theirs = kept_tree(stored, said)
        if theirs is None:
            self._find(
                Kind.CHECKPOINT,
                "was edited: size, last row or hashes are not what its note says",
                stored,
            )
        fits = self._compare(stored, said)
        if not fits:
            self._history.settle(said)
        if word is Word.UNKNOWN:
            self._waiting.append(stored["number"])
        elif fits:
            self._waiting.clear()
            self._report.size = said.size
        self._size, self.last_row, self._note = said.size, stored["last_row"], stored["note"]
        if theirs is not None:
            self._tree = theirs
        if theirs is not None or fits:
            self._compared = self.last_row

    def _compare(self, stored: Any, said: Checkpoint) -> bool:
        rows = (self._compared + 1, stored["last_row"])
        more = self._tree.size - said.size
        if more:
            kind = Kind.ADDED if more > 0 else Kind.MISSING
            message = (
                f"{more} rows more than were sealed: some were put in"
                if more > 0
                else f"{-more} rows are missing"
            )
        elif self._tree.root != said.root:
            kind = Kind.CHANGED
            message = "not the rows that were sealed: some were edited, moved or replaced"
        else:
            return True
        self._report.add(Finding(kind, message, rows, stored["number"]))
        return False

    def _by_another_key(self, row: Any) -> None:
        if self.keys.was_sealed_before_an_end(row):
            self.judged_by_tree += 1
            if row["action"] == Action.PRUNE:
                self.prunes.add(row["context"])
        elif self.keys.is_all:
            self._find_row(Kind.UNKNOWN_KEY, "has a seal by no data key that there was then", row)
        else:
            self._unjudged += 1

    def _without_seal(self, row: Any) -> None:
        self.without_seal += 1
        state, is_erasure = row["state"], row["action"] == Action.ERASE
        may_lack_one = (
            not self.number  # from before there were seals
            or row["status"] >= _REFUSED
            or row["context"] == _UNVERIFIED
            or is_erasure
        )
        # Nobody without a data key says what a vault should be, but that there should be none.
        if not may_lack_one or not (state is None or (is_erasure and state == ERASED)):
            self._find_row(Kind.NO_SEAL, "has no seal, and is none that may lack one", row)

    def _find(self, kind: Kind, message: str, stored: Any) -> None:
        self._report.add(Finding(kind, message, checkpoint=stored["number"]))

    def _find_row(self, kind: Kind, message: str, row: Any) -> None:
        number = row["number"]
        self._report.add(
            Finding(kind, message, (number, number), row_id=row["id"], user_id=row["user_id"])
        )
