"""The head of the audit's log: the latest checkpoint that is to be believed."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from custody.audit.checkpoint import Checkpoint, MalformedCheckpoint
from custody.audit.merkle import Tree
from custody.audit.note import (
    MalformedNote,
    UnknownKeys,
    Verifier,
    WrongSignature,
    open_note,
    parse,
)
from custody.datakeys.data_key import DataKey


class Word(StrEnum):
    """Who says what a checkpoint says."""

    # A data key that is open here.
    OURS = "ours"
    # A data key that is not open here: one that was ended, maybe.
    UNKNOWN = "unknown"
    # Nobody: it is not what was signed.
    NOBODY = "nobody"


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


def head_of(row: Mapping[str, Any], keys: Sequence[DataKey]) -> Head | None:
    """Return what a checkpoint stands for; None where it is none of anybody's.

    Args:
        row: of ``auth.encryption_audit_checkpoints``, whatever it holds.
        keys: the data keys that are open.
    """
    try:
        text = parse(row["note"]).text
        checkpoint = Checkpoint.parse(text)
        tree = Tree.of(row["size"], row["hashes"])
        word = word_of(row["note"], checkpoint.origin, keys)
    except (MalformedNote, MalformedCheckpoint, ValueError):
        return None
    if checkpoint[1:] != (tree.size, tree.root, row["last_row"]):
        return None
    return Head(row["number"], checkpoint, tree, word, row["note"])


def word_of(note: str, origin: str, keys: Sequence[DataKey]) -> Word:
    """Return whose word a checkpoint is.

    Args:
        note: it, with its signatures.
        origin: that it names.
        keys: the data keys that are open.

    Raises:
        MalformedNote: it is none.
    """
    try:
        open_note(note, [Verifier(origin, key.audit_signer.public_key()) for key in keys])
    except UnknownKeys:
        return Word.UNKNOWN
    except WrongSignature:
        return Word.NOBODY
    return Word.OURS


def latest(heads: Sequence[Head | None]) -> Head | None:
    """Return the checkpoint to go on from.

    The newest that is ours. Where none is, the newest by a key that is not open here: its data key
    may have been ended since. Whether it was is for a verification to say.

    Args:
        heads: the newest first.
    """
    for word in (Word.OURS, Word.UNKNOWN):
        for head in heads:
            if head is not None and head.word is word:
                return head
    return None
