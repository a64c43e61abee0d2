"""The tokens that were verified lately: a signature is checked once, everything else each time."""

import hashlib
from collections import OrderedDict

from custody.auth.claims import Claims

# A quarter of a kilobyte each.
CAPACITY = 10_000


class VerifiedTokens:
    """Remembers the tokens used last, by a hash: no token is kept in memory.

    Args:
        capacity: how many.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._known: OrderedDict[bytes, Claims] = OrderedDict()

    def find(self, name: bytes) -> Claims | None:
        """Return what is known of a token; whether it is valid now is for the caller to say."""
        claims = self._known.get(name)
        if claims is not None:
            self._known.move_to_end(name)
        return claims

    def add(self, name: bytes, claims: Claims) -> None:
        """Remember a token, or what it was checked with last; the longest unused is forgotten."""
        self._known[name] = claims
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)


def name_of(token: str) -> bytes:
    """Return the name of a token here: its hash (SHA-256), without the header around it.

    However a client spaces its header, one token has one name: it can't fill the memory of many.

    Args:
        token: as the HTTP parser gives it, which stands for odd bytes by lone surrogates.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
