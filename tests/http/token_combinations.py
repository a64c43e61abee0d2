"""Tokens in all combinations of what they and the issuer's keys may say, each with its reason.

A table maps the name of a token to what builds it, and to the reason that it is refused for; None:
it is taken. All of them are for one daemon, which has the keys of :func:`published`.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import get_default_algorithms

from tests.tokens import ABSENT, Issuer, Sign, b64

Token = Callable[[Issuer], str]
Table = Mapping[str, tuple[Token, str | None]]

# The two names of the one algorithm, in a token and in a JWK, and names of others.
ALGORITHMS = ("EdDSA", "Ed25519")
OF_A_KEY = {"absent": ABSENT, "null": None, "EdDSA": "EdDSA", "Ed25519": "Ed25519"}
OTHERS: dict[str, object] = {
    one: one for one in ("Ed448", "ES256", "RS256", "HS256", "none", "eddsa", "ED25519", "")
} | {"a number": 1, "a list": ["EdDSA"]}

# JWKs that all have the bytes of the issuer's Ed25519 key: only the first one is such a key.
KINDS: dict[str, dict[str, object]] = {
    "Ed25519": {"kty": "OKP", "crv": "Ed25519"},
    "Ed448": {"kty": "OKP", "crv": "Ed448"},
    "X25519": {"kty": "OKP", "crv": "X25519"},
    "P-256": {"kty": "EC", "crv": "P-256"},
    "RSA": {"kty": "RSA", "e": "AQAB"},
    "oct": {"kty": "oct"},
}
# Keys of other kinds, which sign by algorithms of their own. Ed25519 alone has 64 bytes with ES256.
OWN: dict[str, tuple[str, Callable[[], Any], str]] = {
    "Ed448": ("EdDSA", Ed448PrivateKey.generate, "signature"),
    "P-256": ("ES256", lambda: generate_private_key(SECP256R1()), "unknown-key"),
    "RSA": ("RS256", lambda: rsa.generate_private_key(65537, 2048), "signature"),
    "oct": ("HS256", lambda: secrets.token_bytes(32), "signature"),
}
# Members of an Ed25519 JWK that are null, and whether it can be used then.
NULL_OF_A_KEY = {"use": True, "key_ops": True, "x5c": True, "kty": False, "crv": False, "x": False}


def published(issuer: Issuer) -> bytes:
    """Write the JWKS with all keys that the tokens name."""
    x = b64(issuer.key.public_key().public_bytes_raw())
    usual = {"kty": "OKP", "crv": "Ed25519", "x": x, "use": "sig", "key_ops": ["verify"]}
    another = b64(Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    keys = [
        {**members, "x": x, "y": x, "n": x, "k": x, "alg": value, "kid": f"{kind}, {alg}"}
        for kind, members in KINDS.items()
        for alg, value in OF_A_KEY.items()
    ]
    keys += [
        {**_own(kind)[0], "alg": value, "kid": f"own {kind}, {alg}"}
        for kind in OWN
        for alg, value in OF_A_KEY.items()
    ]
    keys += [{**usual, "alg": value, "kid": f"alg {alg}"} for alg, value in OTHERS.items()]
    keys += [{**usual, name: None, "kid": f"{name} null"} for name in NULL_OF_A_KEY]
    keys += [{**usual, "alg": alg, "kid": "twice alike"} for alg in ALGORITHMS]
    keys += [{**usual, "x": one, "kid": "twice otherwise"} for one in (x, another)]
    keys.append(issuer.jwk())
    present = [{name: one for name, one in key.items() if one is not ABSENT} for key in keys]
    return json.dumps({"keys": present}).encode()


@cache
def _own(kind: str) -> tuple[dict[str, Any], Sign]:
    """Make a key of another kind: its public JWK, and how it signs."""
    name, generate, _ = OWN[kind]
    algorithm, key = get_default_algorithms()[name], generate()
    public = key if isinstance(key, bytes) else key.public_key()
    return algorithm.to_jwk(public, as_dict=True), lambda text: algorithm.sign(text, key)


def _signed(sign: Sign | None = None, **header: object) -> Token:
    return lambda issuer: issuer.signed(issuer.header(**header), issuer.claims(), sign)


def _signed_by(kind: str, **header: object) -> Token:
    def build(issuer: Issuer) -> str:
        # The key is made no earlier: one of RSA takes long.
        return _signed(_own(kind)[1], **header)(issuer)

    return build


def _claims(alg: str, **claims: object) -> Token:
    return lambda issuer: issuer.signed(issuer.header(alg=alg), issuer.claims(**claims))


def keys(alg: str) -> Table:
    """Every kind of key under every alg of its JWK, signed with the Ed25519 key or with its own."""
    table: dict[str, tuple[Token, str | None]] = {}
    for of_key in OF_A_KEY:
        for kind in KINDS:
            name = f"{kind}, {of_key}"
            reason = None if kind == "Ed25519" else "unknown-key"
            table[name] = _signed(alg=alg, kid=name), reason
        for kind, (_, _, reason) in OWN.items():
            name = f"own {kind}, {of_key}"
            table[name] = _signed_by(kind, alg=alg, kid=name), reason
    for other in OTHERS:
        table[f"alg {other}"] = _signed(alg=alg, kid=f"alg {other}"), "unknown-key"
    for member, usable in NULL_OF_A_KEY.items():
        reason = None if usable else "unknown-key"
        table[f"{member} null"] = _signed(alg=alg, kid=f"{member} null"), reason
    table["twice alike"] = _signed(alg=alg, kid="twice alike"), None
    table["twice otherwise"] = _signed(alg=alg, kid="twice otherwise"), "unknown-key"
    return table


def algorithms(of_key: str) -> Table:
    """Every alg of a token, under an Ed25519 key with this alg in its JWK."""
    kid = f"Ed25519, {of_key}"
    others = OTHERS | {"absent": ABSENT, "null": None}
    return {
        f"alg {name}, {of_key}": (_signed(alg=value, kid=kid), "alg")
        for name, value in others.items()
    } | {f"alg {name}, {of_key}": (_signed(alg=name, kid=kid), None) for name in ALGORITHMS}


def nulls(alg: str) -> Table:
    """Each member as null: what is read must be what it is; what isn't read may be anything."""
    header = {"kid": "kid", "typ": "typ", "crit": "crit", "b64": "crit"}
    unread = ("cty", "jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256")
    claims = {"iss": "iss", "sub": "sub", "aud": "aud", "exp": "time", "nbf": "time"}
    claims |= {"iat": "time", "cnf": "cnf"}
    ignored = ("jti", "auth_time", "acr", "amr", "azp", "client_id", "scope", "email", "sid")
    return {
        f"header {name}": (_signed(None, **{"alg": alg, name: None}), reason)
        for name, reason in (header | dict.fromkeys(unread)).items()
    } | {
        f"claim {name}": (_claims(alg, **{name: None}), reason)
        for name, reason in (claims | dict.fromkeys(ignored)).items()
    }


def doubles(alg: str) -> Table:
    """Each member twice, alike or otherwise: two readers could read two things."""

    def twice(part: int, name: str, first: str, second: str) -> Token:
        def build(issuer: Issuer) -> str:
            parts = [issuer.header(alg=alg), issuer.claims()]
            texts = [json.dumps(members).encode() for members in parts]
            others = {one: value for one, value in parts[part].items() if one != name}
            both = f'{{"{name}":{first},"{name}":{second},{json.dumps(others)[1:]}'
            texts[part] = both.encode()
            return issuer.signed(texts[0], texts[1])

        return build

    named = [(0, "header", name) for name in ("alg", "kid", "typ", "crit", "cty", "jwk", "x")]
    of_claims = ("iss", "sub", "aud", "exp", "nbf", "iat", "cnf", "jti", "auth_time", "acr", "x")
    named += [(1, "claim", name) for name in of_claims]
    values = {"alg": '"EdDSA"', "kid": '"key-1"', "iss": '"https://auth.example"', "exp": "9e9"}
    return {
        f"{where} {name} twice {how}": (
            twice(part, name, values.get(name, "1"), second),
            "malformed",
        )
        for part, where, name in named
        for how, second in (("alike", values.get(name, "1")), ("otherwise", "null"))
    }


def lives(alg: str) -> Table:
    """What times there may be, from now: iat, exp, and nbf where there is one."""
    rows: list[tuple[object, object, object, str | None]] = [
        *((0, life, ABSENT, None) for life in (1, 900, 86399, 86400)),
        (0, 86401, ABSENT, "lifetime"),
        (-100, 86299, ABSENT, None),
        (-100, 86300, ABSENT, None),
        (-100, 86301, ABSENT, "lifetime"),
        (20, 86420, ABSENT, None),
        (20, 86421, ABSENT, "lifetime"),
        (-0.5, 86399.5, ABSENT, None),
        (-0.5, 86400, ABSENT, "lifetime"),
        (-86390, 9, ABSENT, None),
        (-86390, 11, ABSENT, "lifetime"),
        (0, 315_360_000, ABSENT, "lifetime"),
        *((ABSENT, life, ABSENT, None) for life in (1, 86400, 86430)),
        (ABSENT, 86460, ABSENT, "lifetime"),
        (ABSENT, 315_360_000, ABSENT, "lifetime"),
        *((None, life, ABSENT, "time") for life in (900, 86400, 86460)),
        (0, None, ABSENT, "time"),
        (0, ABSENT, ABSENT, "no-exp"),
        (ABSENT, ABSENT, ABSENT, "no-exp"),
        *((-900, end, ABSENT, None) for end in (0, -15)),
        *((-900, end, ABSENT, "expired") for end in (-31, -45.5)),
        (ABSENT, -31, ABSENT, "expired"),
        (60, 900, ABSENT, "not-yet"),
        *((0, 900, begin, None) for begin in (-(10**9), -1, 0, 20)),
        (0, 900, 60, "not-yet"),
        (ABSENT, 900, 60, "not-yet"),
        (0, 900, None, "time"),
    ]

    def build(**times: object) -> Token:
        def from_now(issuer: Issuer) -> str:
            now = int(issuer.now())
            found = {
                name: now + value if isinstance(value, int | float) else value
                for name, value in times.items()
            }
            return _claims(alg, **found)(issuer)

        return from_now

    return {
        f"iat {_said(iat)}, exp {_said(exp)}, nbf {_said(nbf)}": (
            build(iat=iat, exp=exp, nbf=nbf),
            reason,
        )
        for iat, exp, nbf, reason in rows
    }


def bindings(alg: str) -> Table:
    """A binding to a key, whatever it says, and what is said first where more is wrong."""
    values: dict[str, object] = {
        "a thumbprint": {"jkt": "x"},
        "empty": {},
        "null": None,
        "text": "x",
    }
    table: dict[str, tuple[Token, str | None]] = {
        f"bound, {name}": (_claims(alg, cnf=value), "cnf") for name, value in values.items()
    }
    return table | {
        "bound, of another issuer": (_claims(alg, cnf={}, iss="https://other.example"), "iss"),
        "bound, for another audience": (_claims(alg, cnf={}, aud="other"), "aud"),
        "bound, and too old": (_claims(alg, cnf={}, exp=0), "cnf"),
    }


def _said(value: object) -> object:
    return "absent" if value is ABSENT else value


def combinations() -> Iterable[tuple[str, Table]]:
    """Return all tables, by name."""
    for alg in ALGORITHMS:
        for made in (keys, nulls, doubles, lives, bindings):
            yield f"{made.__name__} of {alg}", made(alg)
    for of_key in OF_A_KEY:
        yield f"algorithms, key's alg {of_key}", algorithms(of_key)
