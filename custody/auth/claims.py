"""What a token says: read, and checked for all that neither time nor a key can change.

PyJWT is lax about most of it, so it is checked here before that sees the token.
"""

import math
import re
from dataclasses import dataclass

from custody.auth.jwk import VerificationKey, decode_base64url
from custody.auth.refusals import InvalidToken, Reason
from custody.strict_json import decode_object

_MAX_SUBJECT = 255  # characters
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
# One algorithm by its two names: RFC 8037 section 3.1, RFC 9864 section 2.2.
ALGORITHMS = frozenset({"EdDSA", "Ed25519"})
# RFC 7515 section 7.1; 86 characters are the 64 bytes of RFC 8032.
_TOKEN = re.compile(
    r"(?P<header>[\w-]+)\.(?P<payload>[\w-]+)\.(?P<signature>[\w-]{1,1024})", re.ASCII
)
_SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says, all checked but for the times.

    Args:
        user_id: its sub.
        kid: the name of its key, where it gives one.
        expires: its exp, in seconds since 1970.
        begins: the later of its nbf and iat; minus infinity where it has neither.
        issued: its iat, in seconds since 1970, where it has one.
        auth_time: when the user logged in, in seconds since 1970, where it says so.
        acr: how the user logged in, where it says so.
        key: what its signature was checked with; None before that.
    """

    user_id: str
    kid: str | None
    expires: float
    begins: float
    issued: float | None = None
    auth_time: float | None = None
    acr: str | None = None
    key: VerificationKey | None = None


def read_claims(token: str, *, issuer: str, audience: str) -> Claims:
    """Read a token, and check what it says but for the times. Its signature is not checked.

    Args:
        token: a JWS in compact form, at most 8192 characters.
        issuer: what ``iss`` must equal.
        audience: what ``aud`` must equal or contain.

    Raises:
        InvalidToken: with the first reason there is.

    Source: RFC 7519 section 7.2, RFC 8725 section 3.
    """
    header, claims, signature = parse(token)
    check_algorithm(header)
    check_extensions(header)
    check_type(header)
    kid = key_name(header)
    check_signature_size(signature)
    check_issuer(claims, issuer)
    check_audience(claims, audience)
    check_unbound(claims)
    return Claims(user_id(claims), kid, *times(claims), auth_time(claims), acr(claims))


def parse(token: str) -> tuple[dict[str, object], dict[str, object], bytes]:
    """Return the header, the claims and the signature of a token; nothing of them is checked.

    Raises:
        InvalidToken: they can't be read.
    """
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise InvalidToken(Reason.FORM)
    try:
        # A second spelling of one signature would be a second token: all three are canonical.
        signature = decode_base64url(match["signature"])
        header = decode_object(decode_base64url(match["header"]))
        claims = decode_object(decode_base64url(match["payload"]))
    except ValueError:
        # Without its cause: a decoder's error holds the text it failed on.
        raise InvalidToken(Reason.MALFORMED) from None
    return header, claims, signature


def check_algorithm(header: dict[str, object]) -> None:
    """RFC 8725 section 3.1: the algorithm is ours to say. jku, jwk, x5u, x5c are never read."""
    algorithm = header.get("alg")
    if not (isinstance(algorithm, str) and algorithm in ALGORITHMS):
        raise InvalidToken(Reason.ALGORITHM)


def check_extensions(header: dict[str, object]) -> None:
    """RFC 7515 section 4.1.11 and RFC 7797: no extension is understood."""
    if "crit" in header or "b64" in header:
        raise InvalidToken(Reason.EXTENSION)


def check_type(header: dict[str, object]) -> None:
    """RFC 8725 section 3.11: an ID token, logout token, ... is no access token."""
    token_type = header.get("typ", "JWT")
    if not isinstance(token_type, str) or token_type.lower() not in _TYPES:
        raise InvalidToken(Reason.TYPE)


def key_name(header: dict[str, object]) -> str | None:
    """Return the name of the key, or None where the token gives none."""
    kid = header.get("kid")
    if "kid" in header and not isinstance(kid, str):
        raise InvalidToken(Reason.KEY_NAME)
    return kid if isinstance(kid, str) else None


def check_signature_size(signature: bytes) -> None:
    """Ed25519's has 64 bytes (RFC 8032 section 5.1.6); another one costs no fetch of keys."""
    if len(signature) != _SIGNATURE_BYTES:
        raise InvalidToken(Reason.SIGNATURE)


def check_issuer(claims: dict[str, object], issuer: str) -> None:
    """RFC 7519 section 4.1.1."""
    if claims.get("iss") != issuer:
        raise InvalidToken(Reason.ISSUER)


def check_audience(claims: dict[str, object], audience: str) -> None:
    """RFC 7519 section 4.1.3: a text, or a list of them."""
    named = claims.get("aud")
    audiences = named if isinstance(named, list) else [named]
    if not all(isinstance(one, str) for one in audiences) or audience not in audiences:
        raise InvalidToken(Reason.AUDIENCE)


def check_unbound(claims: dict[str, object]) -> None:
    """RFC 7800: who has a key of its own alone may use it, and nobody here asks for a proof."""
    if "cnf" in claims:
        raise InvalidToken(Reason.BOUND)


def user_id(claims: dict[str, object]) -> str:
    """Return the user that the token is for."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT or "\0" in subject:
        raise InvalidToken(Reason.SUBJECT)
    try:
        # JSON can spell a lone surrogate; UTF-8, and so the database, can't.
        subject.encode()
    except UnicodeEncodeError:
        raise InvalidToken(Reason.SUBJECT) from None
    return subject


def times(claims: dict[str, object]) -> tuple[float, float, float | None]:
    """Return exp, the later of nbf and iat, and iat; see :class:`Claims`."""
    if "exp" not in claims:
        raise InvalidToken(Reason.NO_EXPIRY)
    found = {name: _seconds(claims[name]) for name in ("exp", "nbf", "iat") if name in claims}
    begins = max((found[name] for name in ("nbf", "iat") if name in found), default=-math.inf)
    return found["exp"], begins, found.get("iat")


def auth_time(claims: dict[str, object]) -> float | None:
    """Return when the user logged in; one that is no number says nothing.

    It is no reason to refuse the token: most routes ask for no login.
    """
    try:
        return _seconds(claims.get("auth_time"))
    except InvalidToken:
        return None


def acr(claims: dict[str, object]) -> str | None:
    """Return how the user logged in; one that is no text says nothing."""
    found = claims.get("acr")
    return found if isinstance(found, str) else None


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidToken(Reason.TIME)
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise InvalidToken(Reason.TIME)
    return seconds
