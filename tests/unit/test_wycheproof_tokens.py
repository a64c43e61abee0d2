"""Signatures of tokens against Wycheproof's Ed25519 cases: by our own verifier, not the library."""

import json
from collections import Counter
from typing import Self

import pytest

from custody.auth.claims import check_signature_size
from custody.auth.jwk import VerificationKey, decode_base64url, parse_jwks
from custody.auth.refusals import InvalidToken, Reason
from custody.auth.tokens import check_signature
from tests.clock import Clock
from tests.tokens import Issuer, b64
from tests.unit.served_jwks import ServedJwks
from tests.wycheproof import AnyBytes, Vector, vectors

NOW = 1_800_000_000.0
# The order of the group: RFC 8032, section 5.1.
ORDER = 2**252 + 27742317777372353535851937790883648493


class Signed(str):  # noqa: SLOT000 - a few of them
    """A token whose signed part is any bytes: those of the cases are no base64url."""

    _message: AnyBytes

    def __new__(cls, vector: Vector) -> Self:
        made = super().__new__(cls, b64(vector["sig"]))
        made._message = AnyBytes(vector["msg"])
        return made

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        return self._message, sep, str(self)


def key_of(vector: Vector) -> VerificationKey | None:
    """Return the case's key as a JWKS has it, or None where the JWKS's reader drops it."""
    x = b64(bytes.fromhex(vector.group["publicKey"]["pk"]))
    jwks = {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]}
    return next(iter(parse_jwks(json.dumps(jwks).encode())), None)


def judged(vector: Vector) -> str:
    key = key_of(vector)
    if key is None:
        return "no key"
    try:
        # As `read_claims` does, which sees each token first.
        check_signature_size(vector["sig"])
        check_signature(Signed(vector), key)
    except InvalidToken:
        return "refused"
    return "taken"


def test_each_case_is_judged_as_it_should_be() -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for vector in vectors("ed25519"):
        verdict = judged(vector)
        seen[vector.result, verdict] += 1
        # Under a key of small order anyone can sign: such a key is none.
        weak = "SmallOrderPublicKey" in vector.flags
        assert (verdict == "no key") is weak, vector.name
        if not weak and vector.result != "acceptable":
            assert verdict == {"valid": "taken", "invalid": "refused"}[vector.result], vector.name
    assert seen["valid", "taken"] > 100
    assert seen["invalid", "refused"] > 50
    assert seen["acceptable", "no key"] > 5


def changed(signature: bytes, how: str) -> bytes:
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    changes = {
        "SignatureMalleability": r + (s + ORDER).to_bytes(32, "little"),
        "SignatureWithGarbage": signature + b"\0",
        "TruncatedSignature": signature[:-1],
        "CompressedSignature": signature[:32],
        "InvalidEncoding": signature[32:] + r,
        "s is 0": r + bytes(32),
        "R is 0": bytes(32) + signature[32:],
        "all 0": bytes(64),
        "all 1": b"\xff" * 64,
        "R of another sign": bytes([*r[:-1], r[-1] ^ 0x80]) + signature[32:],
        "s is the order": r + ORDER.to_bytes(32, "little"),
    }
    return changes[how]


@pytest.mark.parametrize(
    "how",
    [
        *("SignatureMalleability", "SignatureWithGarbage", "TruncatedSignature"),
        *("CompressedSignature", "InvalidEncoding", "s is 0", "R is 0", "all 0", "all 1"),
        *("R of another sign", "s is the order"),
    ],
)
async def test_a_genuine_token_with_a_signature_of_that_kind_is_refused(how: str) -> None:
    """Each way in which the cases go wrong, on a whole token, also one that was seen before."""
    issuer = Issuer(now=lambda: NOW)
    verifier = ServedJwks(issuer, clock=Clock(NOW)).verifier
    genuine = issuer.token("alice")
    assert (await verifier.verify(f"Bearer {genuine}")).user_id == "alice"
    signed, _, signature = genuine.rpartition(".")
    forged = b64(changed(decode_base64url(signature), how))
    with pytest.raises(InvalidToken) as refused:
        await verifier.verify(f"Bearer {signed}.{forged}")
    assert refused.value.reason is Reason.SIGNATURE
