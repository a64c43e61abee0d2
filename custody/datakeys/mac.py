"""A MAC that has begun already: what every message begins with is absorbed once."""

import hmac

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_SIZE = 32


def derive(key: bytes, use: str) -> bytes:
    """Return a key of 32 bytes for one use alone: HKDF-SHA-256 (RFC 5869, no salt).

    Args:
        key: 32 bytes, of a data key or of a user's master key.
        use: the label of the use, which no other use has.
    """
    return HKDF(SHA256(), KEY_SIZE, salt=None, info=use.encode()).derive(key)


class Mac:
    """HMAC-SHA-256 under a key that is derived from a data key for one use alone.

    Args:
        data_key: 32 bytes.
        use: the label of the use; see :func:`derive`.
        beginning: what every message begins with.
    """

    __slots__ = ("_begun",)

    def __init__(self, data_key: bytes, use: str, beginning: bytes = b"") -> None:
        self._begun = HMAC(derive(data_key, use), SHA256())
        self._begun.update(beginning)

    def of(self, message: bytes) -> str:
        """Return the MAC of a message, in 64 hexadecimal digits.

        Args:
            message: what comes after the beginning.
        """
        # A copy costs less than half of what the beginning would, each time anew.
        begun = self._begun.copy()
        begun.update(message)
        return begun.finalize().hex()

    def is_mac(self, mac: str, message: bytes) -> bool:
        """Say whether a text is the MAC of a message, in a time that tells nothing of it.

        Args:
            mac: whatever the database holds; an attacker may have written it.
            message: as for :meth:`of`.
        """
        # Of a text that is not ASCII, compare_digest would raise.
        return mac.isascii() and hmac.compare_digest(mac, self.of(message))
