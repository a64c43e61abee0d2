"""What the audit goes on believing of a data key that was ended.

Whoever ends a data key has two open: this one, and the current one that takes its place. The
current one signs, for good, which public key the checkpoints of the ended one are checked with, and
behind which row nothing has its seal any more. So words lead from a data key that is open to each
that ever was, and to no other: nobody else can pretend that there was one.
"""

import re
from base64 import b64encode
from collections.abc import Sequence
from typing import NamedTuple, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from custody.audit.note import Signer, Verifier, decoded, open_note, sign
from custody.datakeys.data_key import DataKey

# Of the note, and of whoever signs it: no checkpoint has such an origin, nor such a second line.
_NAME = "custody-audit-ended-key"
_TEXT = re.compile(
    rf"{_NAME}\n(dk-[0-9a-f]{{32}})\n([A-Za-z0-9+/]{{43}}=)\nlast-row (0|[1-9][0-9]{{0,18}})\n"
)
_HIGHEST = 2**63 - 1


class EndedKey(NamedTuple):
    """A data key that was ended.

    Args:
        id: of the data key.
        public: what its checkpoints are checked with; 32 bytes.
        last_row: no row with a higher number has its seal.
    """

    id: str
    public: bytes
    last_row: int

    @property
    def text(self) -> str:
        """The text that the data key after it signs."""
        return f"{_NAME}\n{self.id}\n{b64encode(self.public).decode()}\nlast-row {self.last_row}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read such a text.

        Args:
            text: of a note whose signature holds.

        Raises:
            ValueError: it says something else.
        """
        found = _TEXT.fullmatch(text)
        public = None if found is None else decoded(found[2])
        if found is None or public is None:
            raise ValueError("it is no word of a data key that was ended")
        return cls(found[1], public, int(found[3]))

    @property
    def verifier(self) -> Ed25519PublicKey:
        """The key that its checkpoints are checked with."""
        return Ed25519PublicKey.from_public_bytes(self.public)


def word_of_end(ended: DataKey, last_row: int, current: DataKey) -> str:
    """Return what the current data key says of one that is being ended: a signed note.

    Args:
        ended: that one.
        last_row: a number as high as that of any row with its seal.
        current: who says it.
    """
    public = ended.audit_signer.public_key().public_bytes_raw()
    return sign(EndedKey(ended.id, public, last_row).text, Signer(_NAME, current.audit_signer))


def believed(words: Sequence[str], keys: Sequence[DataKey]) -> list[EndedKey]:
    """Return the ended data keys that a chain of words leads to from those that are open.

    A word of an ended one counts up to its own last row: it was known to somebody, maybe, which is
    why it was ended, and he may say what he likes.

    Args:
        words: as the database has them, the oldest first; whatever they are.
        keys: the data keys that are open.
    """
    speakers = [(key.audit_signer.public_key(), _HIGHEST) for key in keys]
    found = []
    for word in reversed(words):
        for public, last_row in speakers:
            try:
                ended = EndedKey.parse(open_note(word, [Verifier(_NAME, public)]))
            except ValueError:  # of a note that is none, a signature that is not by this key
                continue
            if ended.last_row <= last_row:
                speakers.append((ended.verifier, ended.last_row))
                found.append(ended)
            break
    return found
