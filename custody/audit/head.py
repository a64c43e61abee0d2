"""The head of the audit's log: the latest checkpoint that is to be believed."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from custody.audit.checkpoint import Checkpoint
from custody.audit.keys import Keys, Word
from custody.audit.merkle import Tree


class Head(NamedTuple):
    """A checkpoint as the database has it, with what is believed of it.

    Args:
        number: of the checkpoint.
        checkpoint: what it says.
        tree: over these rows.
        word: whose word it is.
        note: it, with its signatures.
    """

    number: int
    checkpoint: Checkpoint
    tree: Tree
    word: Word
    note: str


def head_of(row: Mapping[str, Any], keys: Keys) -> Head | None:
    """Return what a checkpoint stands for; None where it is none of anybody's.

    Args:
        row: of ``auth.encryption_audit_checkpoints``, whatever it holds.
        keys: by which it is judged.
    """
    said, word = keys.read(row["note"])
    tree = None if said is None else kept_tree(row, said)
    return (
        None if said is None or tree is None else Head(row["number"], said, tree, word, row["note"])
    )


def kept_tree(stored: Mapping[str, Any], said: Checkpoint) -> Tree | None:
    """Return the tree that a checkpoint keeps, if it is the one that its note is about.

    None as well where it says that rows up to another number are under it.

    Args:
        stored: its row.
        said: what its note says.
    """
    try:
        tree = Tree.of(stored["size"], stored["hashes"])
    except ValueError:
        return None
    return tree if (tree.size, tree.root, stored["last_row"]) == said[1:] else None


def latest(heads: Sequence[Head | None]) -> Head | None:
    """Return the checkpoint to go on from.

    The newest by a data key that is open. Where none is, the newest by one that was ended; or by
    one that may be ours, and is not open here: whether it is is for a verification to say.

    Args:
        heads: the newest first.
    """
    for word in (Word.OURS, Word.ENDED, Word.UNKNOWN):
        for head in heads:
            if head is not None and head.word is word:
                return head
    return None
