"""Bearer tokens: from an Authorization header to the user whose token it carries.

PyJWT checks the signature, once for each token and JWKS; everything it is lax about is checked here
before it sees the token, and what time can change at each request.
Nothing of a token ever gets into a message.
"""

import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from jwt.algorithms import OKPAlgorithm

from custody.auth.jwk import VerificationKey, decode_base64url
from custody.auth.jwks import JwksCache
from custody.auth.verified import Claims, VerifiedTokens, name_of
from custody.strict_json import decode_object

_MAX_LENGTH = 8192  # characters of header value
_MAX_SUBJECT = 255  # characters
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
# RFC 9110 section 11.4 and RFC 7515 section 7.1; 86 characters are the 64 bytes of RFC 8032.
_BEARER = re.compile(
    r"(?i:bearer) +(?P<header>[\w-]+)\.(?P<payload>[\w-]+)\.(?P<signature>[\w-]{1,1024})",
    re.ASCII,
)
_EDDSA = OKPAlgorithm()
_SIGNATURE_BYTES = 64


class InvalidToken(Exception):
    """The token proves nothing; the message is a fixed reason, for the debug log."""


class Principal(NamedTuple):
    """The user a request is made for; user_id has 1 to 255 characters and no NUL."""

    user_id: str


class TokenVerifier:
    """Verifies the access tokens of one issuer, made for one audience.

    Args:
        jwks: the issuer's keys.
        issuer: what `iss` must equal.
        audience: what `aud` must equal or contain.
        leeway: seconds by which the issuer's clock may differ from ours.
        now: seconds since 1970.

    Source: RFC 7519 section 7.2, RFC 8725 section 3.
    """

    def __init__(
        self,
        *,
        jwks: JwksCache,
        issuer: str,
        audience: str,
        leeway: float = 30,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._jwks = jwks
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway
        self._now = now
        self._verified = VerifiedTokens()

    async def verify(self, authorization: str | None) -> Principal:
        """Say whose token this is.

        Args:
            authorization: the header's value, at most 8192 characters; None where there is none.

        Raises:
            InvalidToken: there is no token, or one that is to be refused.
            IssuerUnavailable: there are no keys to check it with.
        """
        if authorization is None:
            raise InvalidToken("no Authorization header")
        if len(authorization) > _MAX_LENGTH:
            raise InvalidToken("too long")
        name = name_of(authorization)
        known = self._verified.find(name)
        claims = known or self._read(authorization)
        # Not trusted before the signature is: checked first so that a token which is refused
        # anyway, as an expired one is, costs no fetch and no curve arithmetic.
        self._check_times(claims)
        key = self._jwks.known_key(claims.kid) or await self._jwks.key_for(claims.kid)
        if key is None:
            raise InvalidToken("no such key")
        # The very object: each JWKS that is fetched has new ones.
        if claims.key is not key:
            _check_signature(authorization.rpartition(" ")[2], key)
            self._verified.add(name, replace(claims, key=key))
        return Principal(claims.user_id)

    def _read(self, authorization: str) -> Claims:
        header, claims, signature = _parsed(authorization)
        kid = _checked_header(header)
        # Ed25519's (RFC 8032, section 5.1.6); a longer one costs no fetch of keys.
        if len(signature) != _SIGNATURE_BYTES:
            raise InvalidToken("the signature has another length")
        self._check_addressing(claims)
        if "exp" not in claims:
            raise InvalidToken("no exp")
        return Claims(
            user_id=_checked_subject(claims),
            kid=kid,
            expires=_seconds(claims["exp"]),
            begins=max(
                (_seconds(claims[name]) for name in ("nbf", "iat") if name in claims),
                default=-math.inf,
            ),
        )

    def _check_addressing(self, claims: dict[str, object]) -> None:
        if claims.get("iss") != self._issuer:
            raise InvalidToken("another issuer")
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if not all(isinstance(one, str) for one in audiences) or self._audience not in audiences:
            raise InvalidToken("another audience")

    def _check_times(self, claims: Claims) -> None:
        now = self._now()
        if claims.expires <= now - self._leeway:
            raise InvalidToken("expired")
        if claims.begins > now + self._leeway:
            raise InvalidToken("not valid yet")


def _parsed(authorization: str) -> tuple[dict[str, object], dict[str, object], bytes]:
    match = _BEARER.fullmatch(authorization)
    if match is None:
        raise InvalidToken("not a bearer token of three segments")
    try:
        # A second spelling of one signature would be a second token: all three are canonical.
        signature = decode_base64url(match["signature"])
        header = decode_object(decode_base64url(match["header"]))
        claims = decode_object(decode_base64url(match["payload"]))
    except ValueError:
        # Without its cause: a decoder's error holds the text it failed on.
        raise InvalidToken("malformed segment") from None
    return header, claims, signature


def _checked_header(header: dict[str, object]) -> str | None:
    # RFC 8725 section 3.1: the algorithm is ours to say. jku, jwk, x5u and x5c are never read.
    if header.get("alg") != "EdDSA":
        raise InvalidToken("its alg is not EdDSA")
    # RFC 7515 section 4.1.11 and RFC 7797: no extension is understood.
    if "crit" in header or "b64" in header:
        raise InvalidToken("an extension that is not understood")
    # RFC 8725 section 3.11: an ID token, logout token, ... is no access token.
    token_type = header.get("typ", "JWT")
    if not isinstance(token_type, str) or token_type.lower() not in _TYPES:
        raise InvalidToken("another type of token")
    kid = header.get("kid")
    if "kid" in header and not isinstance(kid, str):
        raise InvalidToken("kid is not a string")
    return kid if isinstance(kid, str) else None


def _checked_subject(claims: dict[str, object]) -> str:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT or "\0" in subject:
        raise InvalidToken("sub is no user id")
    try:
        # JSON can spell a lone surrogate; UTF-8, and so the database, can't.
        subject.encode()
    except UnicodeEncodeError:
        raise InvalidToken("sub is no user id") from None
    return subject


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidToken("a time is not a number")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise InvalidToken("a time is out of range")
    return seconds


def _check_signature(token: str, key: VerificationKey) -> None:
    """Check the signature of a token whose segments and header were checked (RFC 8037)."""
    signed, _, signature = token.rpartition(".")
    if not _EDDSA.verify(signed.encode("ascii"), key.key, decode_base64url(signature)):
        raise InvalidToken("wrong signature")
