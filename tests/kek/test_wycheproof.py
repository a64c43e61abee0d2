"""What wraps and seals are composed of, against Wycheproof's cases and those of RFC 4231."""

import base64
import hmac
from collections import Counter

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from custody.datakeys.mac import Mac, derive
from kek_backends import aead
from kek_backends.aead import XaesKey, gcm_decrypt
from kek_backends.env import EnvKek
from kek_backends.errors import Tampered
from kek_backends.uri import KekUri
from tests.bindings import of
from tests.wycheproof import AnyBytes, Vector, vectors


def test_aes_256_gcm() -> None:
    """By what both formats are opened with: with any associated data, and a nonce of 12 bytes."""
    seen: Counter[str] = Counter()
    for vector in vectors("aes-gcm"):
        if vector.group["keySize"] != 256:
            continue
        key, iv, aad, sealed = (vector[name] for name in ("key", "iv", "aad", "ct"))
        sealed += vector["tag"]
        seen[vector.result] += 1
        if len(iv) != 12:
            with pytest.raises(Tampered, match="nonce"):
                gcm_decrypt(key, iv, sealed)
        elif vector.result == "valid":
            assert aead._open(key, iv, sealed, aad) == vector["msg"], vector.name
            seen["without associated data"] += not aad
            assert aad or gcm_decrypt(key, iv, sealed) == vector["msg"], vector.name
        else:
            assert_refused(vector, sealed)
    assert seen["valid"] > 60
    assert seen["invalid"] > 20
    assert seen["without associated data"] > 5


def assert_refused(vector: Vector, sealed: bytes) -> None:
    with pytest.raises(Tampered):
        aead._open(vector["key"], vector["iv"], sealed, vector["aad"])


def test_aes_cmac_of_whole_blocks() -> None:
    """Its subkey is derived here: of it, and of the block cipher, XAES-256-GCM makes its keys."""
    seen: Counter[str] = Counter()
    for vector in vectors("aes-cmac"):
        message = vector["msg"]
        if vector.group["keySize"] != 256 or not message or len(message) % 16:
            continue
        xaes, state = XaesKey(vector["key"]), 0
        for at in range(0, len(message), 16):
            block = int.from_bytes(message[at : at + 16], "big") ^ state
            is_last = at + 16 == len(message)
            encrypted = xaes._aes.update((block ^ xaes._k1 * is_last).to_bytes(16, "big"))
            state = int.from_bytes(encrypted, "big")
        seen[vector.result] += 1
        assert (encrypted == vector["tag"]) is (vector.result == "valid"), vector.name
    assert seen["valid"] > 1
    assert seen["invalid"] > 5


async def test_a_wrap_with_any_other_tag_is_refused() -> None:
    """ModifiedTag, on wraps as rows hold them: each bit, all of them, none, and fewer of them."""
    kek = EnvKek(uri=KekUri.parse("env:K"), kek_id="k", key=b"\x07" * 32, development=False)
    wrap = await kek.wrap(of("alice", 1), b"m" * 32)
    sealed = base64.b64decode(wrap.wrapped_mk)
    text, tag = sealed[:-16], int.from_bytes(sealed[-16:], "big")
    tags = [(tag ^ 1 << bit).to_bytes(16, "big") for bit in range(128)]
    tags += [bytes(16), b"\xff" * 16, (~tag & (1 << 128) - 1).to_bytes(16, "big")]
    tags += [sealed[-16:][:size] for size in range(16)]
    for other in tags:
        forged = wrap._replace(wrapped_mk=base64.b64encode(text + other).decode())
        with pytest.raises(Tampered):
            await kek.unwrap(of("alice", 1), forged)
    assert await kek.unwrap(of("alice", 1), wrap) == b"m" * 32


def test_hkdf_sha_256_without_salt() -> None:
    """As all keys of a data key are derived: what is shorter or longer begins with the same."""
    seen: Counter[int] = Counter()
    for vector in vectors("hkdf-sha256"):
        if vector.result != "valid" or vector["salt"].strip(b"\0"):
            continue
        derived, expected = derive(vector["ikm"], AnyBytes(vector["info"])), vector["okm"]
        size = min(len(derived), len(expected))
        seen[size] += 1
        assert derived[:size] == expected[:size], vector.name
    assert seen[32] > 5


HMACS = (
    (
        b"\x0b" * 20,
        b"Hi There",
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    ),
    (
        b"Jefe",
        b"what do ya want for nothing?",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    (
        b"\xaa" * 20,
        b"\xdd" * 50,
        "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
    ),
    (
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
)


@pytest.mark.parametrize(("key", "message", "expected"), HMACS)
@pytest.mark.parametrize("begun", [0, 1, 7])
def test_hmac_sha_256_that_has_begun(key: bytes, message: bytes, expected: str, begun: int) -> None:
    """RFC 4231; what a message begins with may have been absorbed before."""
    mac = Mac.__new__(Mac)
    mac._begun = HMAC(key, SHA256())
    mac._begun.update(message[:begun])
    for _ in range(2):
        assert mac.of(message[begun:]) == expected
        assert mac.is_mac(expected, message[begun:])


def test_a_seal_with_any_other_mac_does_not_hold() -> None:
    """ModifiedTag and truncation; and the key is what RFC 5869 says, by another HMAC."""
    mac = Mac(b"\x07" * 32, "use", b"begin")
    right = mac.of(b"message")
    pseudorandom = hmac.digest(bytes(32), b"\x07" * 32, "sha256")
    key = hmac.digest(pseudorandom, b"use\x01", "sha256")
    assert right == hmac.digest(key, b"beginmessage", "sha256").hex()
    number = int(right, 16)
    others = [f"{number ^ 1 << bit:064x}" for bit in range(256)]
    others += [right[:size] for size in range(64)]
    others += ["0" * 64, "f" * 64, right.upper(), right + "0", f" {right}", right[:-1] + "é"]
    assert not any(mac.is_mac(other, b"message") for other in others)
    assert mac.is_mac(right, b"message")
