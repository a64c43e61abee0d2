"""What a checkpoint says, as c2sp.org/tlog-checkpoint has it."""

import re
from base64 import b64encode
from typing import NamedTuple, Self

from custody.audit.merkle import HASH_SIZE
from custody.audit.note import decoded

# One form for a number; more digits than these no size can have.
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
# Of the extension line: so that nobody can say that rows are under it which are not.
_LAST_ROW = "last-row "
_LINES = 4


class MalformedCheckpoint(ValueError):
    """A text is no checkpoint, or says more than a checkpoint of ours."""


class Checkpoint(NamedTuple):
    """The head of the log at some size.

    Args:
        origin: which log.
        size: how many rows are under it.
        root: of the Merkle tree over them; 32 bytes.
        last_row: all rows up to this number are under it.
    """

    origin: str
    size: int
    root: bytes
    last_row: int

    @property
    def text(self) -> str:
        """The text that is signed."""
        root = b64encode(self.root).decode()
        return f"{self.origin}\n{self.size}\n{root}\n{_LAST_ROW}{self.last_row}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a note.

        Args:
            text: whatever it is; its signatures are the caller's to check.

        Raises:
            MalformedCheckpoint: it is no checkpoint, or has other extension lines than ours.
        """
        lines = text.removesuffix("\n").split("\n")
        if not text.endswith("\n") or len(lines) != _LINES:
            raise MalformedCheckpoint
        origin, size, encoded, extension = lines
        root, last_row = decoded(encoded), extension.removeprefix(_LAST_ROW)
        if (
            not origin
            or _NUMBER.fullmatch(size) is None
            or root is None
            or len(root) != HASH_SIZE
            or not extension.startswith(_LAST_ROW)
            or _NUMBER.fullmatch(last_row) is None
        ):
            raise MalformedCheckpoint
        return cls(origin, int(size), root, int(last_row))
