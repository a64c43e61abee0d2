"""Bearer tokens: from an Authorization header to the user whose token it carries.

PyJWT checks the signature, once for each token and JWKS; what time can change is checked at each
request. Nothing of a token ever gets into a message.
"""

from dataclasses import replace
from typing import NamedTuple

from jwt.algorithms import OKPAlgorithm

from custody.auth.claims import read_claims
from custody.auth.jwk import VerificationKey, decode_base64url
from custody.auth.jwks import JwksCache
from custody.auth.refusals import InvalidToken, Reason
from custody.auth.rules import TokenRules
from custody.auth.verified import VerifiedTokens, name_of

_MAX_LENGTH = 8192  # characters of header value
_EDDSA = OKPAlgorithm()


class Principal(NamedTuple):
    """The user a request is made for.

    Args:
        user_id: 1 to 255 characters without NUL.
        auth_time: when the user logged in, in seconds since 1970, where the token says so.
        acr: how the user logged in, where the token says so.
    """

    user_id: str
    auth_time: float | None = None
    acr: str | None = None


class TokenVerifier:
    """Verifies the access tokens of one issuer, made for one audience.

    Args:
        jwks: the issuer's keys.
        rules: what a token must be.

    Source: RFC 7519 section 7.2, RFC 8725 section 3.
    """

    def __init__(self, jwks: JwksCache, rules: TokenRules) -> None:
        self._jwks = jwks
        self.rules = rules
        self._verified = VerifiedTokens()

    async def verify(self, authorization: str | None) -> Principal:
        """Say whose token this is.

        Args:
            authorization: the header's value, at most 8192 characters; None where there is none.

        Raises:
            InvalidToken: there is no token, or one that is to be refused.
            IssuerUnavailable: there are no keys to check it with.
        """
        token = token_of(authorization)
        name = name_of(token)
        known = self._verified.find(name)
        claims = known or read_claims(token, issuer=self.rules.issuer, audience=self.rules.audience)
        # Not trusted before the signature is: checked first so that a token which is refused
        # anyway, as an expired one is, costs no fetch and no curve arithmetic.
        self.rules.check_times(claims)
        key = self._jwks.known_key(claims.kid) or await self._jwks.key_for(claims.kid)
        if key is None:
            raise InvalidToken(Reason.UNKNOWN_KEY)
        # The very object: each JWKS that is fetched has new ones.
        if claims.key is not key:
            check_signature(token, key)
            self._verified.add(name, replace(claims, key=key))
        return Principal(claims.user_id, claims.auth_time, claims.acr)


def token_of(authorization: str | None) -> str:
    """Return the token of an Authorization header (RFC 9110 section 11.4, RFC 6750 section 2.1)."""
    if authorization is None:
        raise InvalidToken(Reason.ABSENT)
    if len(authorization) > _MAX_LENGTH:
        raise InvalidToken(Reason.TOO_LONG)
    scheme, space, rest = authorization.partition(" ")
    if not space or scheme.lower() != "bearer":
        raise InvalidToken(Reason.FORM)
    return rest.lstrip(" ")


def check_signature(token: str, key: VerificationKey) -> None:
    """Check the signature of a token whose segments and header were checked (RFC 8037)."""
    signed, _, signature = token.rpartition(".")
    if not _EDDSA.verify(signed.encode("ascii"), key.key, decode_base64url(signature)):
        raise InvalidToken(Reason.SIGNATURE)
