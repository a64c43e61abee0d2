"""The tokens that were verified lately: a signature is checked once, everything else each time."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from custody.auth.jwk import VerificationKey

# A quarter of a kilobyte each.
CAPACITY = 10_000


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says, all checked but for the times.

    Args:
        user_id: its sub.
        kid: the name of its key, where it gives one.
        expires: its exp, in seconds since 1970.
        begins: the later of its nbf and iat; minus infinity where it has neither.
        key: what its signature was checked with; None before that.
    """

    user_id: str
    kid: str | None
    expires: float
    begins: float
    key: VerificationKey | None = None


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


def name_of(authorization: str) -> bytes:
    """Return the name of a token here: a hash (SHA-256) of the whole header value.

    Args:
        authorization: as the HTTP parser gives it, which stands for odd bytes by lone surrogates.
    """
    return hashlib.sha256(authorization.encode("utf-8", "surrogatepass")).digest()
