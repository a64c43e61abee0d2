"""Reads the issuer's public keys out of a JWKS document (RFC 7517)."""

import base64
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from custody.strict_json import decode_object

_SHOWN_LENGTH = 40  # characters of a kid in a message
_POINT_SIZE = 32  # RFC 8032 section 5.1.5
_P = 2**255 - 19
_Y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826  # a point of order 8
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LOW_ORDER_Y = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})


# What an operator does about a set without a key that could be used.
NO_KEY = "has no usable Ed25519 key; have the issuer sign with EdDSA, each key with its own kid"


class JwksError(Exception):
    """A JWKS could not be fetched, read or used; the message is fit for an operator and a log."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key that tokens are verified with.

    Args:
        kid: the name that the issuer gave it.
        key: the key.
        alone: whether its JWKS had no other key, of any kind: then a token need not name it.
    """

    kid: str | None
    key: Ed25519PublicKey
    alone: bool = False


def find_key(keys: Mapping[str | None, VerificationKey], kid: str | None) -> VerificationKey | None:
    """Return the key that a token names; one that names none means the only key of its JWKS.

    Args:
        keys: of a JWKS, by name.
        kid: the token's.
    """
    if kid is None:
        return next((key for key in keys.values() if key.alone), None)
    return keys.get(kid)


def decode_base64url(text: str) -> bytes:
    """Decode canonical base64url without padding (RFC 7515 section 2).

    Raises:
        ValueError: another alphabet, padding, or bits set that carry nothing.
    """
    decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != text.encode():
        raise ValueError("not canonical base64url")
    return decoded


def parse_jwks(document: bytes) -> tuple[VerificationKey, ...]:
    """Read the Ed25519 keys for signatures out of a JWKS; keys of other kinds are skipped.

    There may be none: an issuer that has withdrawn all of them publishes an empty set.

    A key that is listed twice alike is one. Two keys under one kid (or two without) are both left
    out: which one is meant can't be known. A member that is null is an absent one, and a byte order
    mark before the document is skipped: there are issuers that write so.

    Args:
        document: the JSON text, at most some hundred kilobytes.

    Raises:
        JwksError: it is not a JWKS, or has a private key in it.

    Source: RFC 7517 sections 4 and 5, RFC 8037 section 2, RFC 9864 section 2.2.
    """
    found, others = _read(document)
    keys = dict.fromkeys(found)
    alone = len(keys) == 1 and not others
    count = Counter(kid for kid, _ in keys)
    return tuple(
        VerificationKey(kid, Ed25519PublicKey.from_public_bytes(point), alone)
        for kid, point in keys
        if count[kid] == 1
    )


def doubled_kids(document: bytes) -> tuple[str, ...]:
    """Return the names that two different keys have: neither of them is used.

    Args:
        document: as for :func:`parse_jwks`.

    Raises:
        JwksError: it is not a JWKS, or has a private key in it.
    """
    found, _ = _read(document)
    count = Counter(kid for kid, _ in dict.fromkeys(found))
    return tuple(_shown(kid) for kid in count if count[kid] > 1)


def _shown(kid: str | None) -> str:
    return "none" if kid is None else repr(kid[:_SHOWN_LENGTH])


def _read(document: bytes) -> tuple[list[tuple[str | None, bytes]], int]:
    """Return kid and 32 bytes of each usable key, and how many members are something else."""
    try:
        jwks = decode_object(document.removeprefix(_BYTE_ORDER_MARK)).get("keys")
    except ValueError:
        raise JwksError("is not a JSON object; check that it is the issuer's JWKS") from None
    if not isinstance(jwks, list):
        raise JwksError('has no list "keys"; check that it is the issuer\'s JWKS')
    members = [_without_nulls(jwk) for jwk in jwks if isinstance(jwk, dict)]
    if any("d" in jwk for jwk in members):
        raise JwksError("publishes a private key; have the issuer replace that key now")
    found = [key for key in map(_named_point, members) if key]
    return found, len(jwks) - len(found)


def _without_nulls(jwk: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in jwk.items() if value is not None}


def _named_point(jwk: dict[str, object]) -> tuple[str | None, bytes] | None:
    """Return kid and 32 bytes of an Ed25519 key for signatures; None of anything else."""
    kid, x, key_ops = jwk.get("kid"), jwk.get("x"), jwk.get("key_ops", ["verify"])
    if (
        jwk.get("kty") != "OKP"
        or jwk.get("crv") != "Ed25519"
        or jwk.get("use", "sig") != "sig"
        or jwk.get("alg", "EdDSA") not in ("EdDSA", "Ed25519")
        or not (isinstance(key_ops, list) and "verify" in key_ops)
        or not ("kid" not in jwk or isinstance(kid, str))
        or not isinstance(x, str)
    ):
        return None
    try:
        point = decode_base64url(x)
    except ValueError:
        return None
    if len(point) != _POINT_SIZE or _is_weak(point):
        return None
    return (kid if isinstance(kid, str) else None), point


def _is_weak(point: bytes) -> bool:
    # RFC 8032 section 5.1.3 wants y < p, which OpenSSL does not check. Under a point of low
    # order anyone can sign. The sign of x is masked off: either one has the same order.
    y = int.from_bytes(point, "little") & (2**255 - 1)
    return y >= _P or y in _LOW_ORDER_Y
