"""What a wrap is bound to: it opens for nothing else."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

_LABEL = "custody wrap v3"
_LENGTH_BYTES = 4


class Purpose(StrEnum):
    """What a wrapped key is for: a wrap that was made for one never opens for another."""

    MASTER_KEY = "master key"
    DATA_KEY = "data key"


@dataclass(frozen=True, slots=True)
class Binding:
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
        parts = (_LABEL, self.purpose, self.subject, str(self.generation), *more)
        return b"".join(_with_length(part) for part in parts)

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


def _with_length(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(_LENGTH_BYTES, "big") + encoded
