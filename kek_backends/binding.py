"""What a wrap is bound to: it opens for nothing else."""

from enum import StrEnum
from struct import Struct
from typing import NamedTuple, Self

_LABEL = "custody wrap v3"
# The length of a part, as 4 bytes, big-endian.
_length = Struct(">I").pack


class Purpose(StrEnum):
    """What a wrapped key is for: a wrap that was made for one never opens for another."""

    MASTER_KEY = "master key"
    DATA_KEY = "data key"


def _beginning(purpose: Purpose) -> bytes:
    texts = [part.encode() for part in (_LABEL, purpose)]
    return b"".join(_length(len(text)) + text for text in texts)


_MASTER_KEY = Purpose.MASTER_KEY
_BEGINNING_OF_MASTER_KEY = _beginning(Purpose.MASTER_KEY)
_BEGINNING_OF_DATA_KEY = _beginning(Purpose.DATA_KEY)


class Binding(NamedTuple):
    """Whose key it is, which one, and what for.

    Args:
        subject: id of the user, of 1 to 255 characters without NUL; or of the data key.
        generation: of the user's vault, 0 to 2^63 - 1; of a data key 0.
        purpose: what the key is for.
    """

    subject: str
    generation: int = 0
    purpose: Purpose = Purpose.MASTER_KEY

    @classmethod
    def of_data_key(cls, key_id: str) -> Self:
        """Return the binding of a data key, which is the service's own."""
        return cls(key_id, purpose=Purpose.DATA_KEY)

    def encode(self, *more: str) -> bytes:
        """Return all of it as bytes, each part with its length in front: no two are alike.

        They begin with NUL. A user id has none, so no binding is the context of a format 2 wrap,
        which is the bare user id.

        Args:
            more: what else a wrap is to be bound to, such as its kek_id.
        """
        # On the way of each request for a key: what is always the same is encoded already.
        beginning = _BEGINNING_OF_MASTER_KEY
        if self.purpose is not _MASTER_KEY:
            beginning = _BEGINNING_OF_DATA_KEY
        subject, generation = self.subject.encode(), str(self.generation).encode()
        encoded = beginning + _length(len(subject)) + subject
        encoded += _length(len(generation)) + generation
        for part in more:
            text = part.encode()
            encoded += _length(len(text)) + text
        return encoded

    @property
    def context(self) -> dict[str, str]:
        """The same for a KMS that takes names and values, and compares all of them."""
        if self.purpose is Purpose.DATA_KEY:
            return {"custody:format": "3", "custody:data-key": self.subject}
        return {
            "custody:format": "3",
            "custody:user": self.subject,
            "custody:generation": str(self.generation),
        }
