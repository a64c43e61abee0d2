"""Whether a checkpoint is ours."""

from collections.abc import Iterable
from enum import Enum, auto
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

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


class Signed(Enum):
    """What a checkpoint's signature is worth."""

    OURS = auto()
    UNKNOWN = auto()
    WRONG = auto()


class Signatures:
    """Reads checkpoints in their order.

    One by a key that is not open may be from before a deep rotation: then its key has signed
    others before the first that can be checked. Any other is by somebody else.

    Args:
        keys: of all data keys that are open.
    """

    def __init__(self, keys: Iterable[Ed25519PublicKey]) -> None:
        self._keys = tuple(keys)
        self._has_seen_ours = False
        self._old: set[tuple[str, bytes]] = set()

    def read(self, note: str) -> tuple[Checkpoint | None, Signed]:
        """Return what a checkpoint says, None where it is none, and what its signature is worth.

        Args:
            note: whatever the database holds.
        """
        try:
            said = Checkpoint.parse(parse(note).text)
            open_note(note, [Verifier(said.origin, key) for key in self._keys])
        except (MalformedNote, MalformedCheckpoint):
            return None, Signed.WRONG
        except WrongSignature:
            return said, Signed.WRONG
        except UnknownKeys:
            by = {(name, key_id) for name, key_id, _ in parse(note).signatures}
            if not self._has_seen_ours:
                self._old |= by
            return said, Signed.UNKNOWN if self._old & by else Signed.WRONG
        self._has_seen_ours = True
        return said, Signed.OURS


def kept_tree(stored: Any, said: Checkpoint) -> Tree | None:
    """Return the tree that a checkpoint keeps, if it is the one that its note is about.

    Args:
        stored: its row.
        said: what its note says.
    """
    try:
        tree = Tree.of(stored["size"], stored["hashes"])
    except ValueError:
        return None
    return tree if (tree.size, tree.root) == (said.size, said.root) else None
