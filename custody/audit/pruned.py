"""What a prune has left of the audit: a note, signed by a data key, in place of what is gone.

It names the checkpoint up to which the log was let go of, and the rows of before that were kept, as
a Merkle tree of their own. Each transaction of a prune deletes rows and puts down a new note: the
log verifies behind each, wherever a prune is broken off.

The rows that the prune before has kept are gone through again, in the order of their numbers. Until
that is done there are two lists: those that stay, up to some number; and those behind it, which
are held against the tree of before, from as much of it as was passed.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple, Self

from custody.audit.checkpoint import Checkpoint
from custody.audit.keys import Keys, Word
from custody.audit.merkle import HASH_SIZE, Tree
from custody.audit.note import MalformedNote, Signer, decoded, parse, sign
from custody.datakeys.data_key import DataKey

_NUMBER, _ROOT = "(0|[1-9][0-9]{0,18})", "([A-Za-z0-9+/]{43}=)"
# No checkpoint has this for its second line, so neither is ever taken for the other.
_FIRST = "custody audit prune v1"
_TEXT = re.compile(
    rf"{_FIRST}\n([^\n]+)\ncheckpoint {_NUMBER}\nlog {_NUMBER} {_ROOT} last-row {_NUMBER}\n"
    rf"kept {_NUMBER} {_ROOT} up-to {_NUMBER}\nrest {_NUMBER} {_ROOT} of {_NUMBER} {_ROOT}\n"
)


class Counted(NamedTuple):
    """Some rows, in the order of their numbers.

    Args:
        size: how many they are.
        root: of the Merkle tree over them; 32 bytes.
    """

    size: int
    root: bytes

    @classmethod
    def of(cls, tree: Tree) -> Self:
        """Return the rows that a tree is over."""
        return cls(tree.size, tree.root)


NONE = Counted.of(Tree())


class Pruned(NamedTuple):
    """What a prune has left.

    Args:
        origin: of which log.
        checkpoint: the number of the checkpoint up to which rows are gone; it is there itself.
        log: all rows that were ever under it.
        last_row: it covers rows up to this number.
        kept: the rows up to ``up_to`` that are there.
        up_to: at most ``last_row``.
        passed: of the rows that the prune before has kept, those up to ``up_to``.
        whole: all that it has kept: those behind ``up_to`` are still there, up to ``last_row``.
    """

    origin: str
    checkpoint: int
    log: Counted
    last_row: int
    kept: Counted
    up_to: int
    passed: Counted = NONE
    whole: Counted = NONE

    @classmethod
    def at(cls, head: Checkpoint, number: int, kept: Counted) -> Self:
        """Return what a prune has left that has come to a checkpoint.

        Args:
            head: what the checkpoint says.
            number: of the checkpoint.
            kept: the rows up to it that are there.
        """
        log = Counted(head.size, head.root)
        return cls(head.origin, number, log, head.last_row, kept, head.last_row)

    @property
    def left(self) -> int:
        """How many rows of before are there."""
        return self.kept.size + self.whole.size - self.passed.size

    @property
    def head(self) -> Checkpoint:
        """What the checkpoint says up to which rows are gone."""
        return Checkpoint(self.origin, *self.log, self.last_row)

    @property
    def text(self) -> str:
        """The text that is signed."""
        return (
            f"{_FIRST}\n{self.origin}\ncheckpoint {self.checkpoint}\n"
            f"log {_shown(self.log)} last-row {self.last_row}\n"
            f"kept {_shown(self.kept)} up-to {self.up_to}\n"
            f"rest {_shown(self.passed)} of {_shown(self.whole)}\n"
        )

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read the text of a note; None: it says something else.

        Args:
            text: whatever it is; its signatures are the caller's to check.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            return None
        at, last_row, up_to = int(found[2]), int(found[5]), int(found[8])
        log, kept, passed, whole = (_rows(found[n], found[n + 1]) for n in (3, 6, 9, 11))
        if log is None or kept is None or passed is None or whole is None:
            return None
        return cls(found[1], at, log, last_row, kept, up_to, passed, whole)


class Left(NamedTuple):
    """What the last prune has left, as the database has it, with what is believed of it.

    Args:
        said: what its note says.
        passed: the tree over the rows that it has passed.
        word: whose word it is.
        note: it, with its signatures.
    """

    said: Pruned
    passed: Tree
    word: Word
    note: str

    @property
    def digest(self) -> str:
        """What the row of the prune says of the note."""
        return digest_of(self.note)


def left_of(row: Mapping[str, Any], keys: Keys) -> Left | None:
    """Return what the last prune has left; None where nobody has said so.

    Args:
        row: of ``auth.encryption_audit_prunes``, whatever it holds.
        keys: by which it is judged.
    """
    note = row["note"]
    try:
        said = Pruned.parse(parse(note).text)
        word = Word.NOBODY if said is None else keys.word_of(note, said.origin)
    except MalformedNote:
        return None
    if said is None or word is Word.NOBODY or row["checkpoint"] != said.checkpoint:
        return None
    try:
        passed = Tree.of(said.passed.size, row["hashes"])
    except ValueError:
        return None
    return Left(said, passed, word, note) if Counted.of(passed) == said.passed else None


def signed(said: Pruned, key: DataKey) -> str:
    """Return a note that says what a prune has left.

    Args:
        said: that.
        key: the data key that signs it.
    """
    return sign(said.text, Signer(said.origin, key.audit_signer))


def digest_of(note: str) -> str:
    """Return what stands for a note in the row of its prune: 64 hexadecimal digits.

    Args:
        note: with its signatures.
    """
    return sha256(note.encode()).hexdigest()


def _shown(rows: Counted) -> str:
    return f"{rows.size} {b64encode(rows.root).decode()}"


def _rows(size: str, encoded: str) -> Counted | None:
    root = decoded(encoded)
    return None if root is None or len(root) != HASH_SIZE else Counted(int(size), root)
