"""What a checkpoint says, as c2sp.org/tlog-checkpoint has it."""

import re
from base64 import b64encode
from typing import NamedTuple, Self

from custody.audit.merkle import HASH_SIZE
from custody.audit.note import decoded

# One form for a number; more digits than these no size can have.
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_LINES = 3


class MalformedCheckpoint(ValueError):
    """A text is no checkpoint, or says more than a checkpoint of ours."""


class Checkpoint(NamedTuple):
    """The head of the log at some size.

    Args:
        origin: which log.
        size: how many rows are under it.
        root: of the Merkle tree over them; 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a note.

        Args:
            text: whatever it is; its signatures are the caller's to check.

        Raises:
            MalformedCheckpoint: it is no checkpoint, or has extension lines: we make none.
        """
        lines = text.removesuffix("\n").split("\n")
        if not text.endswith("\n") or len(lines) != _LINES:
            raise MalformedCheckpoint
        origin, size, encoded = lines
        root = decoded(encoded)
        if not origin or _SIZE.fullmatch(size) is None or root is None or len(root) != HASH_SIZE:
            raise MalformedCheckpoint
        return cls(origin, int(size), root)
