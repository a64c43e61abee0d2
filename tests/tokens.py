"""An issuer for tests, and a table of tokens that no route may accept.

`BAD_TOKENS` maps a name to what builds the Authorization header's value (None: no header). Each is
bad against the JWKS that `Issuer.jwks()` publishes, and can be sent as an HTTP header; those in
`UNSENDABLE` are refused (400) by aiohttp's parser as it is set by default.
"""

import hmac
import json
import time
from collections.abc import Callable, Mapping
from functools import cache

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms
from jwt.utils import base64url_decode, base64url_encode

Sign = Callable[[bytes], bytes]
Members = Mapping[str, object]

ABSENT = object()  # stands for a member that is left out


def b64(data: bytes) -> str:
    """Encode as base64url without padding."""
    return base64url_encode(data).decode()


def okp_jwk(key: Ed25519PublicKey, **members: object) -> dict[str, object]:
    """Make a JWK of an Ed25519 key."""
    return _present({"kty": "OKP", "crv": "Ed25519", "x": b64(key.public_bytes_raw()), **members})


def _present(members: Members) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not ABSENT}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@cache
def _rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Issuer:
    """An issuer with a current key, a standby key, and an RSA key for something else.

    Args:
        url: the `iss` of its tokens.
        audience: the `aud` of its tokens.
        kid: the name of its current key.
        now: seconds since 1970.
    """

    def __init__(
        self,
        url: str = "https://auth.example",
        audience: str = "mana",
        kid: str = "key-1",
        now: Callable[[], float] = time.time,
    ) -> None:
        self.url = url
        self.audience = audience
        self.kid = kid
        self.now = now
        self.key = Ed25519PrivateKey.generate()
        self.standby_key = Ed25519PrivateKey.generate()

    def jwk(self, **members: object) -> dict[str, object]:
        """Return the current key's JWK."""
        own = {"alg": "EdDSA", "use": "sig", "kid": self.kid}
        return okp_jwk(self.key.public_key(), **{**own, **members})

    def jwks(self, *, only_current: bool = False) -> bytes:
        """Return the document: the current key alone, or with the standby and the RSA key."""
        if only_current:
            return _json({"keys": [self.jwk()]})
        n = _rsa_key().public_key().public_numbers().n
        rsa_jwk = {"kty": "RSA", "kid": "rsa", "n": b64(n.to_bytes(256, "big")), "e": "AQAB"}
        standby = okp_jwk(self.standby_key.public_key(), kid=f"{self.kid}-standby")
        return _json({"keys": [rsa_jwk, self.jwk(), standby]})

    def header(self, **members: object) -> dict[str, object]:
        """Return a token's header as the real issuer writes it; ABSENT leaves a member out."""
        return _present({"alg": "EdDSA", "kid": self.kid, **members})

    def claims(self, sub: object = "user-1", **claims: object) -> dict[str, object]:
        """Return a token's claims as the real issuer writes them; ABSENT leaves one out."""
        now = int(self.now())
        times = {"iat": now, "exp": now + 900}
        address = {"iss": self.url, "aud": self.audience}
        profile = {"email": "user@example.org", "role": "user", "sid": "session-1", "tier": "free"}
        return _present({"sub": sub, **profile, **times, **address, **claims})

    def token(self, sub: object = "user-1", **claims: object) -> str:
        """Return a token for that user; ABSENT leaves a claim out."""
        return self.signed(self.header(), self.claims(sub, **claims))

    def bearer(self, sub: object = "user-1", **claims: object) -> str:
        """Return the Authorization header's value with a token for that user."""
        return f"Bearer {self.token(sub, **claims)}"

    def signed(self, header: object, payload: object, sign: Sign | None = None) -> str:
        """Sign any header and payload; bytes are taken as they are, all else becomes JSON."""
        segments = [
            b64(part if isinstance(part, bytes) else _json(part)) for part in (header, payload)
        ]
        return self.signed_text(".".join(segments), sign)

    def signed_text(self, signing_input: str, sign: Sign | None = None) -> str:
        """Sign any text, with the current key or otherwise, and append the signature."""
        signature = (sign or self.key.sign)(signing_input.encode())
        return f"{signing_input}.{b64(signature)}"


Builder = Callable[[Issuer], str | None]


def _framed(frame: str) -> Builder:
    """Put a genuine token into a header value of another form."""
    return lambda issuer: frame.format(token=issuer.token())


def _edited(edit: Callable[[str, str, str], str]) -> Builder:
    """Change the segments of a genuine token after it was signed."""
    return lambda issuer: f"Bearer {edit(*issuer.token().split('.'))}"


def _header(sign: Sign | None = None, **members: object) -> Builder:
    return lambda issuer: f"Bearer {issuer.signed(issuer.header(**members), issuer.claims(), sign)}"


def _rewritten(**rewrite: Callable[[str], str | bytes]) -> Builder:
    """Rewrite the JSON text of the genuine ``header`` or ``payload``, and sign what comes out."""

    def build(issuer: Issuer) -> str:
        parts = []
        for part, members in (("header", issuer.header()), ("payload", issuer.claims())):
            text = rewrite.get(part, str)(_json(members).decode())
            parts.append(text if isinstance(text, bytes) else text.encode())
        return f"Bearer {issuer.signed(parts[0], parts[1])}"

    return build


def _claims(**claims: object) -> Builder:
    return lambda issuer: issuer.bearer(**claims)


def _claim_text(name: str, text: str) -> Builder:
    """Replace a claim by JSON text that an encoder would not write."""

    def build(issuer: Issuer) -> str:
        others = _json(issuer.claims(**{name: ABSENT})).decode()
        return f"Bearer {issuer.signed(issuer.header(), _first(name, text)(others).encode())}"

    return build


def _first(name: str, text: str) -> Callable[[str], str]:
    """Make a member the first one of a JSON object."""
    return lambda members: f'{{"{name}":{text},{members[1:]}'


def _from_now(**seconds: float) -> Builder:
    return lambda issuer: issuer.bearer(**{name: issuer.now() + s for name, s in seconds.items()})


def _hs256(secret: Callable[[Issuer], bytes]) -> Builder:
    """Sign with a value that everybody has as the shared secret (RFC 8725 section 2.1)."""
    return lambda issuer: _header(
        lambda text: hmac.digest(secret(issuer), text, "sha256"), alg="HS256"
    )(issuer)


def _by(algorithm: str, key: Callable[[], object]) -> Sign:
    """Sign as another algorithm does, with a key of its own."""
    return lambda text: get_default_algorithms()[algorithm].sign(text, key())


def _attacker(**members: object) -> Builder:
    """Sign with a key of the attacker's, which the header offers."""
    key = Ed25519PrivateKey.generate()
    return _header(key.sign, **{"jwk": okp_jwk(key.public_key(), kid="key-1"), **members})


def _plus_order(signature: str) -> str:
    """Add the group's order to S: valid to who skips the check of RFC 8032 section 5.1.7."""
    r, s = (
        base64url_decode(signature)[:32],
        int.from_bytes(base64url_decode(signature)[32:], "little"),
    )
    order = 2**252 + 27742317777372353535851937790883648493
    return b64(r + (s + order).to_bytes(32, "little"))


def _flipped(segment: str) -> str:
    data = bytearray(base64url_decode(segment))
    data[5] ^= 1
    return b64(bytes(data))


def _respelled(segment: str) -> str:
    """Set a bit of the last character that stands for nothing: the same bytes, spelled anew."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return segment[:-1] + alphabet[alphabet.index(segment[-1]) + 1]


def _with_spare_bits(value: object) -> str:
    """Encode JSON so that its last character has bits that stand for nothing."""
    text = _json(value)
    return b64(text if len(text) % 3 else text + b" ")


def _respelled_header(issuer: Issuer) -> str:
    header = _respelled(_with_spare_bits(issuer.header()))
    return f"Bearer {issuer.signed_text(f'{header}.{b64(_json(issuer.claims()))}')}"


def _respelled_payload(issuer: Issuer) -> str:
    payload = _respelled(_with_spare_bits(issuer.claims()))
    return f"Bearer {issuer.signed_text(f'{b64(_json(issuer.header()))}.{payload}')}"


def _detached(issuer: Issuer) -> str:
    """Leave the payload out after signing it (RFC 7797)."""
    header = b64(_json(issuer.header(b64=False, crit=["b64"])))
    signature = issuer.key.sign(f"{header}.".encode() + _json(issuer.claims()))
    return f"Bearer {header}..{b64(signature)}"


_IDENTITY = (1).to_bytes(32, "little")  # the neutral point of RFC 8032, encoded
_OTHER_KEY = Ed25519PrivateKey.generate()
_NESTED = "[" * 2000 + "]" * 2000
_RS256 = _by("RS256", _rsa_key)
_ES256 = _by("ES256", lambda: generate_private_key(SECP256R1()))
_ED448 = _by("EdDSA", Ed448PrivateKey.generate)

_FORMS: dict[str, Builder] = {
    "no header": lambda _: None,
    "empty header": lambda _: "",
    "scheme alone": _framed("Bearer"),
    "a word": _framed("Bearer null"),
    "latin-1 letter": _framed("Bearer \xe9{token}"),
    "scheme Basic": _framed("Basic {token}"),
    "scheme Token": _framed("Token {token}"),
    "scheme DPoP": _framed("DPoP {token}"),
    "scheme with a prefix": _framed("XBearer {token}"),
    "scheme twice": _framed("Bearer Bearer {token}"),
    "no scheme": _framed("{token}"),
    "no space": _framed("Bearer{token}"),
    "a tab for the space": _framed("Bearer\t{token}"),
    "a colon": _framed("Bearer: {token}"),
    "quoted": _framed('Bearer "{token}"'),
    "as a parameter": _framed("Bearer token={token}"),
    "two tokens": _framed("Bearer {token} {token}"),
    "two credentials": _framed("Bearer {token}, Bearer {token}"),
    "trailing word": _framed("Bearer {token} x"),
    "trailing mark": _framed("Bearer {token}!"),
    "trailing letters": _framed("Bearer {token}AAAA"),
    "leading dot": _framed("Bearer .{token}"),
    "trailing dot": _framed("Bearer {token}."),
    "very long": _claims(email="x" * 9000),
}
_SEGMENTS: dict[str, Builder] = {
    "one segment": _edited(lambda h, p, s: h),
    "two segments": _edited(lambda h, p, s: f"{h}.{p}"),
    "four segments": _edited(lambda h, p, s: f"{h}.{p}.{s}.{s}"),
    "five segments like a JWE": _edited(lambda h, p, s: f"{h}.{p}.{p}.{p}.{s}"),
    "empty header segment": _edited(lambda h, p, s: f".{p}.{s}"),
    "empty payload segment": _edited(lambda h, p, s: f"{h}..{s}"),
    "empty signature": _edited(lambda h, p, s: f"{h}.{p}."),
    "detached payload": _detached,
    "padded signature": _edited(lambda h, p, s: f"{h}.{p}.{s}=="),
    "padded segments": _edited(
        lambda h, p, s: ".".join(part + "=" * (-len(part) % 4) for part in (h, p, s))
    ),
    "standard base64": _edited(lambda h, p, s: f"{h}.{p}.{s[:-2]}+/"),
    "space in a segment": _edited(lambda h, p, s: f"{h}.{p[:9]} {p[9:]}.{s}"),
    "header spelled otherwise": _respelled_header,
    "payload spelled otherwise": _respelled_payload,
    "signature spelled otherwise": _edited(lambda h, p, s: f"{h}.{p}.{_respelled(s)}"),
    "signature of 63 bytes": _edited(lambda h, p, s: f"{h}.{p}.{b64(base64url_decode(s)[:-1])}"),
    "signature of 65 bytes": _edited(
        lambda h, p, s: f"{h}.{p}.{b64(base64url_decode(s) + bytes(1))}"
    ),
    "JSON serialization": _framed('Bearer {{"payload":"{token}"}}'),
}
_ALGORITHMS: dict[str, Builder] = {
    "alg none, no signature": _header(lambda _: b"", alg="none"),
    "alg none, signed": _header(alg="none"),
    "alg None": _header(lambda _: b"", alg="None"),
    "alg missing": _header(alg=ABSENT),
    "alg null": _header(alg=None),
    "alg a list": _header(alg=["EdDSA"]),
    "alg in another case": _header(alg="eddsa"),
    "alg HS256, signed with Ed25519": _header(alg="HS256"),
    "alg RS256, signed with Ed25519": _header(alg="RS256"),
    "HS256 with the raw public key": _hs256(lambda i: i.key.public_key().public_bytes_raw()),
    "HS256 with the public key as PEM": _hs256(
        lambda i: i.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ),
    "HS256 with the public key as JWK": _hs256(lambda i: _json(i.jwk())),
    "HS256 with the JWKS": _hs256(lambda i: i.jwks()),
    "RS256": _header(_RS256, alg="RS256", kid="rsa"),
    "RS256 as EdDSA": _header(_RS256, kid="rsa"),
    "ES256": _header(_ES256, alg="ES256"),
    "ES256 as EdDSA": _header(_ES256),
    "Ed448": _header(_ED448, alg="Ed448"),
    "Ed448 as EdDSA": _header(_ED448),
}
_SIGNATURES: dict[str, Builder] = {
    "tampered header": _edited(lambda h, p, s: f"{b64(base64url_decode(h) + b' ')}.{p}.{s}"),
    "tampered payload": _edited(
        lambda h, p, s: f"{h}.{b64(base64url_decode(p).replace(b'user-1', b'user-2'))}.{s}"
    ),
    "tampered signature": _edited(lambda h, p, s: f"{h}.{p}.{_flipped(s)}"),
    "S plus the order": _edited(lambda h, p, s: f"{h}.{p}.{_plus_order(s)}"),
    "the neutral point": _header(lambda _: _IDENTITY + bytes(32)),
    "the neutral point, no kid": _header(lambda _: _IDENTITY + bytes(32), kid=ABSENT),
    "all zeros": _header(lambda _: bytes(64)),
    "all ones": _header(lambda _: b"\xff" * 64),
    "another key": _header(_OTHER_KEY.sign),
    "the standby key's kid": lambda i: _header(kid=f"{i.kid}-standby")(i),
    "attacker's jwk": _attacker(),
    "attacker's jwk under its own kid": _attacker(kid="attacker"),
    "attacker's jwk without kid": _attacker(kid=ABSENT),
    "attacker's jku": _attacker(jku="https://attacker.example/jwks"),
    "attacker's x5u": _attacker(x5u="https://attacker.example/x5u"),
}
_HEADERS: dict[str, Builder] = {
    "crit b64": _header(crit=["b64"], b64=True),
    "crit unknown": _header(crit=["exp2"], exp2=1),
    "crit empty": _header(crit=[]),
    "crit null": _header(crit=None),
    "b64 false": _header(b64=False),
    "b64 true": _header(b64=True),
    "kid a number": _header(kid=1),
    "kid null": _header(kid=None),
    "kid a list": _header(kid=["key-1"]),
    "kid empty": _header(kid=""),
    "kid unknown": _header(kid="key-2"),
    "kid in another case": lambda i: _header(kid=i.kid.upper())(i),
    "kid of the RSA key": _header(kid="rsa"),
    "kid a path": _header(kid="../../../dev/null"),
    "kid a lone surrogate": _header(kid="\ud800"),
    "no kid with two keys": _header(kid=ABSENT),
    "typ of a logout token": _header(typ="logout+jwt"),
    "typ of a DPoP proof": _header(typ="dpop+jwt"),
    "typ JOSE": _header(typ="JOSE"),
    "typ empty": _header(typ=""),
    "typ null": _header(typ=None),
    "typ a number": _header(typ=1),
    "header with alg twice": _rewritten(header=_first("alg", '"none"')),
    "header with kid twice": _rewritten(header=_first("kid", '"key-1"')),
    "header with NaN": _rewritten(header=_first("x", "NaN")),
    "header a list": _rewritten(header=lambda text: f"[{text}]"),
    "header a string": _rewritten(header=lambda text: '"EdDSA"'),
    "header null": _rewritten(header=lambda text: "null"),
    "header not JSON": _rewritten(header=lambda text: "alg=EdDSA"),
    "header cut short": _rewritten(header=lambda text: text[:-1]),
    "header in UTF-16": _rewritten(header=lambda text: text.encode("utf-16-le")),
    "header with a byte order mark": _rewritten(header=lambda text: "\ufeff" + text),
    "header not UTF-8": _rewritten(
        header=lambda text: _first("x", '"\xff"')(text).encode("latin-1")
    ),
    "header nested deeply": _rewritten(header=lambda text: f'{{"alg":{_NESTED}}}'),
}
_PAYLOADS: dict[str, Builder] = {
    "payload a list": _rewritten(payload=lambda text: f"[{text}]"),
    "payload a string": _rewritten(payload=lambda text: '"user-1"'),
    "payload a number": _rewritten(payload=lambda text: "1"),
    "payload null": _rewritten(payload=lambda text: "null"),
    "payload empty object": _rewritten(payload=lambda text: "{}"),
    "payload not JSON": _rewritten(payload=lambda text: "sub=user-1"),
    "payload cut short": _rewritten(payload=lambda text: text[:-1]),
    "payload with more after it": _rewritten(payload=lambda text: text + "{}"),
    "payload in UTF-16": _rewritten(payload=lambda text: text.encode("utf-16-le")),
    "payload with a byte order mark": _rewritten(payload=lambda text: "\ufeff" + text),
    "payload not UTF-8": _rewritten(
        payload=lambda text: _first("x", '"\xff"')(text).encode("latin-1")
    ),
    "payload with a raw control character": _rewritten(payload=_first("x", '"\x01"')),
    "payload with NaN": _rewritten(payload=_first("x", "NaN")),
    "payload with -Infinity": _rewritten(payload=_first("x", "-Infinity")),
    "payload with sub twice": _rewritten(payload=_first("sub", '"user-2"')),
    "payload with exp twice": _rewritten(payload=_first("exp", "1")),
    "payload with a name twice within": _rewritten(payload=_first("x", '[{"a":1,"a":2}]')),
    "payload nested deeply": _claim_text("aud", _NESTED),
    "payload a token": lambda issuer: (
        f"Bearer {issuer.signed(issuer.header(cty='JWT'), issuer.token().encode())}"
    ),
}
_TIMES: dict[str, Builder] = {
    "exp missing": _claims(exp=ABSENT),
    "exp null": _claims(exp=None),
    "exp a string": lambda issuer: issuer.bearer(exp=str(int(issuer.now()) + 900)),
    "exp a date": _claims(exp="2999-01-01T00:00:00Z"),
    "exp true": _claims(exp=True),
    "exp a list": _claims(exp=[9999999999]),
    "exp an object": _claims(exp={}),
    "exp NaN": _claim_text("exp", "NaN"),
    "exp Infinity": _claim_text("exp", "Infinity"),
    "exp zero": _claims(exp=0),
    "exp negative": _claims(exp=-9999999999),
    "exp a huge float": _claim_text("exp", "1e999"),
    "exp a huge integer": _claim_text("exp", "9" * 400),
    "exp an integer too long to read": _claim_text("exp", "9" * 4400),
    "expired": _from_now(exp=-31),
    "expired in a fraction": _from_now(exp=-30.5),
    "nbf in the future": _from_now(nbf=60),
    "nbf a string": _claims(nbf="0"),
    "nbf null": _claims(nbf=None),
    "nbf false": _claims(nbf=False),
    "nbf a huge float": _claim_text("nbf", "-1e999"),
    "iat in the future": _from_now(iat=60),
    "iat a string": _claims(iat="0"),
    "iat null": _claims(iat=None),
    "iat true": _claims(iat=True),
    "iat a huge integer": _claim_text("iat", "-" + "9" * 400),
}
_ADDRESSES: dict[str, Builder] = {
    "iss missing": _claims(iss=ABSENT),
    "iss null": _claims(iss=None),
    "iss of another": _claims(iss="https://attacker.example"),
    "iss a list": lambda issuer: issuer.bearer(iss=[issuer.url]),
    "iss with a slash": lambda issuer: issuer.bearer(iss=issuer.url + "/"),
    "iss cut short": lambda issuer: issuer.bearer(iss=issuer.url[:-1]),
    "iss in another case": lambda issuer: issuer.bearer(iss=issuer.url.upper()),
    "aud missing": _claims(aud=ABSENT),
    "aud null": _claims(aud=None),
    "aud of another": _claims(aud="other"),
    "aud a number": _claims(aud=1),
    "aud an object": lambda issuer: issuer.bearer(aud={issuer.audience: 1}),
    "aud with ours inside": lambda issuer: issuer.bearer(aud=f"x{issuer.audience}x"),
    "aud a part of ours": lambda issuer: issuer.bearer(aud=issuer.audience[:-1]),
    "aud in another case": lambda issuer: issuer.bearer(aud=issuer.audience.upper()),
    "aud an empty list": _claims(aud=[]),
    "aud a list without ours": _claims(aud=["other", "another"]),
    "aud a list with a number": lambda issuer: issuer.bearer(aud=[issuer.audience, 1]),
    "aud a list in a list": lambda issuer: issuer.bearer(aud=[[issuer.audience]]),
}
_SUBJECTS: dict[str, Builder] = {
    "sub missing": _claims(sub=ABSENT),
    "sub null": _claims(sub=None),
    "sub a number": _claims(sub=1),
    "sub true": _claims(sub=True),
    "sub a list": _claims(sub=["user-1"]),
    "sub an object": _claims(sub={"id": "user-1"}),
    "sub empty": _claims(sub=""),
    "sub with NUL": _claims(sub="user-1\0"),
    "sub NUL": _claims(sub="\0"),
    "sub of 256 characters": _claims(sub="u" * 256),
    "sub a high surrogate": _claims(sub="user-\ud800"),
    "sub a low surrogate": _claims(sub="\udc00user"),
}

BAD_TOKENS: dict[str, Builder] = {
    **_FORMS,
    **_SEGMENTS,
    **_ALGORITHMS,
    **_SIGNATURES,
    **_HEADERS,
    **_PAYLOADS,
    **_TIMES,
    **_ADDRESSES,
    **_SUBJECTS,
}
UNSENDABLE = frozenset({"very long"})
