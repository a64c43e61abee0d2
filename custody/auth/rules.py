"""What a token must be, whoever signed it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from custody.auth.claims import Claims
from custody.auth.refusals import InvalidToken, Reason


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must be, but for its signature.

    Args:
        issuer: what ``iss`` must equal.
        audience: what ``aud`` must equal or contain.
        max_lifetime: seconds from ``iat`` to ``exp`` at most; without ``iat``, from now.
        leeway: seconds by which the issuer's clock may differ from ours.
        now: seconds since 1970.
    """

    issuer: str
    audience: str
    max_lifetime: float = 86400
    leeway: float = 30
    now: Callable[[], float] = time.time

    def check_times(self, claims: Claims) -> None:
        """Check what time can change.

        Raises:
            InvalidToken: the token is not valid now.
        """
        self.check_expiry(claims)
        self.check_begin(claims)
        self.check_lifetime(claims)

    def check_expiry(self, claims: Claims) -> None:
        """RFC 7519 section 4.1.4."""
        if claims.expires <= self.now() - self.leeway:
            raise InvalidToken(Reason.EXPIRED)

    def check_begin(self, claims: Claims) -> None:
        """RFC 7519 sections 4.1.5 and 4.1.6."""
        if claims.begins > self.now() + self.leeway:
            raise InvalidToken(Reason.NOT_YET)

    def check_lifetime(self, claims: Claims) -> None:
        """A token that lives for years is a password that nobody can change."""
        since = self.now() + self.leeway if claims.issued is None else claims.issued
        if claims.expires - since > self.max_lifetime:
            raise InvalidToken(Reason.LIFETIME)
