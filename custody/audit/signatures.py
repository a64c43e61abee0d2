"""Whether a checkpoint is ours."""

from collections.abc import Sequence
from typing import Any

from custody.audit.checkpoint import Checkpoint, MalformedCheckpoint
from custody.audit.head import Word, word_of
from custody.audit.merkle import Tree
from custody.audit.note import MalformedNote, parse
from custody.datakeys.data_key import DataKey


class Signatures:
    """Reads checkpoints in their order.

    One by a key that is not open may be from before a deep rotation: then its key has signed
    others before the first that can be checked. Any other is by somebody else.

    Args:
        keys: the data keys that are open.
    """

    def __init__(self, keys: Sequence[DataKey]) -> None:
        self._keys = keys
        self._has_seen_ours = False
        self._old: set[tuple[str, bytes]] = set()

    def read(self, note: str) -> tuple[Checkpoint | None, Word]:
        """Return what a checkpoint says, None where it is none, and whose word it is.

        Args:
            note: whatever the database holds.
        """
        try:
            parsed = parse(note)
            said = Checkpoint.parse(parsed.text)
        except (MalformedNote, MalformedCheckpoint):
            return None, Word.NOBODY
        word = word_of(note, said.origin, self._keys)
        if word is Word.OURS:
            self._has_seen_ours = True
        elif word is Word.UNKNOWN:
            by = {(name, key_id) for name, key_id, _ in parsed.signatures}
            if not self._has_seen_ours:
                self._old |= by
            elif not self._old & by:
                word = Word.NOBODY
        return said, word


def kept_tree(stored: Any, said: Checkpoint) -> Tree | None:
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
