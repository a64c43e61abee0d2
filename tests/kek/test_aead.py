"""The local wraps: known answers, and what must never open."""

import base64
import hashlib
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kek_backends import aead
from kek_backends.aead import associated_data, gcm_decrypt, xaes_decrypt, xaes_encrypt, xaes_nonce
from kek_backends.base import Wrap
from kek_backends.binding import Binding
from kek_backends.env import EnvKek
from kek_backends.errors import Misconfigured, Tampered
from kek_backends.uri import KekUri
from tests.bindings import of
from tests.servers import ROOT

VECTORS: dict[str, Any] = json.loads((ROOT / "tests/vectors/format1-rows.json").read_text())
NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"

keys = st.binary(min_size=32, max_size=32)
nonces = st.binary(min_size=24, max_size=24)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


def local(key: bytes, kek_id: str = "env-v1") -> EnvKek:
    uri = KekUri.parse("env:KEK")
    return EnvKek(uri=uri, kek_id=kek_id, key=key, development=True)


@pytest.mark.parametrize(
    ("key", "aad", "expected"),
    [
        (b"\x01" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (
            b"\x03" * 32,
            b"c2sp.org/XAES-256-GCM",
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
        ),
    ],
)
def test_c2sp_vectors(key: bytes, aad: bytes, expected: str) -> None:
    """https://github.com/C2SP/C2SP/blob/main/XAES-256-GCM.md, section "Test vectors"."""
    ciphertext = xaes_encrypt(key, NONCE, b"XAES-256-GCM", aad)
    assert ciphertext.hex() == expected
    assert xaes_decrypt(key, NONCE, ciphertext, aad) == b"XAES-256-GCM"


def test_c2sp_accumulated() -> None:
    """Random inputs from one SHAKE-128, results hashed by another.

    10,000 iterations; the result of 1,000,000 was compared by hand.
    """
    read = io.BytesIO(hashlib.shake_128().digest(10_000 * (32 + 24 + 2 + 2 * 255))).read
    results = hashlib.shake_128()
    for _ in range(10_000):
        key, nonce = read(32), read(24)
        plaintext = read(read(1)[0])
        aad = read(read(1)[0])
        ciphertext = xaes_encrypt(key, nonce, plaintext, aad)
        assert xaes_decrypt(key, nonce, ciphertext, aad) == plaintext
        results.update(ciphertext)
    expected = "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"
    assert results.digest(32).hex() == expected


@given(keys, nonces, st.binary(max_size=64), st.binary(max_size=64))
def test_opens_what_it_sealed(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> None:
    ciphertext = xaes_encrypt(key, nonce, plaintext, aad)
    assert len(ciphertext) == len(plaintext) + aead.TAG_SIZE
    assert xaes_decrypt(key, nonce, ciphertext, aad) == plaintext


@given(keys, nonces, st.binary(min_size=32, max_size=32), st.data())
def test_any_flipped_bit_is_noticed(
    key: bytes, nonce: bytes, plaintext: bytes, data: st.DataObject
) -> None:
    parts = [key, nonce, xaes_encrypt(key, nonce, plaintext, b"for alice"), b"for alice"]
    which = data.draw(st.integers(0, 3))
    bit = data.draw(st.integers(0, 8 * len(parts[which]) - 1))
    changed = bytearray(parts[which])
    changed[bit // 8] ^= 1 << bit % 8
    parts[which] = bytes(changed)
    with pytest.raises(Tampered):
        xaes_decrypt(*parts)


@given(nonces, st.binary(max_size=15))
def test_shorter_than_a_tag(nonce: bytes, ciphertext: bytes) -> None:
    with pytest.raises(Tampered, match="shorter than its tag"):
        xaes_decrypt(bytes(32), nonce, ciphertext, b"")
    with pytest.raises(Tampered, match="shorter than its tag"):
        gcm_decrypt(bytes(32), nonce[:12], ciphertext)


@pytest.mark.parametrize("size", [0, 1, 11, 12, 13, 23, 25, 32])
def test_nonce_of_another_length_is_refused(size: int) -> None:
    """AESGCM alone would take any of them from 8 bytes on."""
    with pytest.raises(Tampered, match=f"an XAES-256-GCM nonce has 24 bytes, this one {size}"):
        xaes_encrypt(bytes(32), bytes(size), b"", b"")
    with pytest.raises(Tampered, match="nonce"):
        xaes_decrypt(bytes(32), bytes(size), bytes(48), b"")
    if size != 12:
        with pytest.raises(Tampered, match=f"a format 1 nonce has 12 bytes, this one {size}"):
            gcm_decrypt(bytes(32), bytes(size), bytes(48))


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33, 64])
def test_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        xaes_encrypt(bytes(size), NONCE, b"", b"")
    with pytest.raises(ValueError, match="32 bytes"):
        local(bytes(size))


def test_nonces_are_random() -> None:
    drawn = [xaes_nonce() for _ in range(200)]
    assert {len(nonce) for nonce in drawn} == {24}
    assert len(set(drawn)) == 200
    assert all(len({nonce[at] for nonce in drawn}) > 50 for at in range(24))


@given(texts, texts, texts, texts)
def test_associated_data_is_injective(a: str, b: str, c: str, d: str) -> None:
    assert (associated_data(a, b) == associated_data(c, d)) is ((a, b) == (c, d))


def test_associated_data_keeps_its_parts_apart() -> None:
    """Pairs that run together without their lengths in front."""
    pairs = [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), ("a\0\0\0\x01b", "c")]
    assert len({associated_data(*pair) for pair in pairs}) == len(pairs)


def test_associated_data_as_rows_are_bound_by_it() -> None:
    """A change here would make every row of format 2 unreadable."""
    expected = (
        b"\0\0\0\x1acustody master key wrap v2" + b"\0\0\0\x06\xc3\xa4lice" + b"\0\0\0\x06env-v1"
    )
    assert associated_data("älice", "env-v1") == expected


async def test_format_2_row_of_long_ago_opens() -> None:
    """Made by this code on 2026-11-22: LocalKek(bytes(range(32))), user alice."""
    wrap = Wrap(FROZEN_WRAP, base64.b64encode(NONCE).decode(), 2, "env-v1")
    assert await local(bytes(range(32))).unwrap(of("alice"), wrap) == b"k" * 32


FROZEN_WRAP = "4dYA5cqdphWzzPVV7vZn+23HXGi9kJ47Z7h2DpM0Tx0LxaEEZoIriV9NopO5xmEE"

FROZEN = {
    of("alice", 7): "4dYA5cqdphWzzPVV7vZn+23HXGi9kJ47Z7h2DpM0Tx36qXUz84r2DLicD7J2HtBb",
    Binding.of_data_key(
        "alice"
    ): "4dYA5cqdphWzzPVV7vZn+23HXGi9kJ47Z7h2DpM0Tx3ZeBI4Qn69aLUutGG29g6C",
}


@pytest.mark.parametrize("binding", FROZEN, ids=lambda binding: binding.purpose.name)
async def test_format_3_wrap_of_long_ago_opens(binding: Binding) -> None:
    """Made on 2026-11-28 from a library's AES-CMAC and AES-GCM, as FROZEN_WRAP is made again so."""
    wrap = Wrap(FROZEN[binding], base64.b64encode(NONCE).decode(), 3, "env-v1")
    kek = local(bytes(range(32)))
    assert await kek.unwrap(binding, wrap) == b"k" * 32
    others = [one for one in (*FROZEN, of("alice", 8), of("bob")) if one != binding]
    for other in others:
        with pytest.raises(Tampered):
            await kek.unwrap(other, wrap)


async def test_wrap_is_bound_to_its_user_and_its_kek_id() -> None:
    kek, key = local(b"\x07" * 32), b"k" * 32
    wrap = await kek.wrap(of("alice"), key)
    assert (wrap.format_version, wrap.kek_id) == (3, "env-v1")
    assert await kek.unwrap(of("alice"), wrap) == key
    for user in ("bob", "", "Alice", "alice "):
        with pytest.raises(Tampered):
            await kek.unwrap(of(user), wrap)
    relabelled = Wrap(wrap.wrapped_mk, wrap.wrap_iv, 3, "env-v2")
    with pytest.raises(Tampered):
        await local(b"\x07" * 32, "env-v2").unwrap(of("alice"), relabelled)
    with pytest.raises(Tampered):
        await local(b"\x08" * 32).unwrap(of("alice"), wrap)


async def test_no_two_wraps_are_alike() -> None:
    kek = local(b"\x07" * 32)
    wraps = [await kek.wrap(of("alice"), b"k" * 32) for _ in range(20)]
    assert len({wrap.wrapped_mk for wrap in wraps}) == len({wrap.wrap_iv for wrap in wraps}) == 20


async def test_format_3_cannot_be_passed_off_as_another() -> None:
    kek = local(b"\x07" * 32)
    wrap = await kek.wrap(of("alice"), b"k" * 32)
    for version in (0, 1, 2, 4, -1):
        with pytest.raises(Tampered):
            await kek.unwrap(of("alice"), Wrap(wrap.wrapped_mk, wrap.wrap_iv, version, "env-v1"))


@pytest.mark.parametrize("version", [0, 1, 3, 4, -1])
async def test_format_2_cannot_be_passed_off_as_another(version: int) -> None:
    """Nor under a user id that tries to be a binding; a token with NUL in it is never accepted."""
    wrap = Wrap(FROZEN_WRAP, base64.b64encode(NONCE).decode(), version, "env-v1")
    for binding in (of("alice"), Binding("alice"), Binding.of_data_key("alice")):
        with pytest.raises(Tampered):
            await local(bytes(range(32))).unwrap(binding, wrap)


@pytest.mark.parametrize("version", [1, 2])
async def test_a_wrap_of_before_never_opens_as_a_data_key(version: int) -> None:
    """In format 2 nothing says what a key is for: one of a user called like a data key would."""
    kek, row = local(bytes(range(32))), ROWS[0]
    wrap = Wrap(FROZEN_WRAP, base64.b64encode(NONCE).decode(), 2, "env-v1")
    if version == 1:
        kek = local(base64.b64decode(VECTORS["kek_base64"]))
        wrap = Wrap(row["wrapped_mk"], row["wrap_iv"], 1, "env-v1")
    assert len(await kek.unwrap(of("alice"), wrap)) == 32
    with pytest.raises(Tampered, match="a data key is never wrapped in an old format"):
        await kek.unwrap(Binding.of_data_key("alice"), wrap)


ROWS = [row for row in VECTORS["rows"] if row["wrapped_mk"]]


@pytest.mark.parametrize("row", ROWS, ids=[row["user_id"] for row in ROWS])
async def test_format_1_rows_open(row: dict[str, Any]) -> None:
    kek = local(base64.b64decode(VECTORS["kek_base64"]))
    wrap = Wrap(row["wrapped_mk"], row["wrap_iv"], row["format_version"], row["kek_id"])
    opened = await kek.unwrap(of(row["user_id"]), wrap)
    assert base64.b64encode(opened).decode() == row["master_key"]
    changed = bytearray(base64.b64decode(row["wrapped_mk"]))
    changed[len(row["user_id"])] ^= 0x80
    broken = Wrap(base64.b64encode(changed).decode(), row["wrap_iv"], 1, "env-v1")
    with pytest.raises(Tampered):
        await kek.unwrap(of(row["user_id"]), broken)


@pytest.mark.parametrize(
    ("wrapped", "iv"),
    [("", ""), ("!!", "!!"), ("AAAA", "AAAA"), ("ä", "AAAA"), ("A" * 64, ""), ("A" * 64, "A")],
)
@pytest.mark.parametrize("version", [1, 2, 3])
async def test_garbage_in_the_columns_is_tampering(wrapped: str, iv: str, version: int) -> None:
    with pytest.raises(Tampered):
        await local(b"\x07" * 32).unwrap(of("alice"), Wrap(wrapped, iv, version, "env-v1"))


async def test_wrap_of_something_else_than_a_master_key_is_tampering() -> None:
    kek = local(b"\x07" * 32)
    for size in (0, 16, 31, 33, 64):
        sealed = xaes_encrypt(b"\x07" * 32, NONCE, bytes(size), associated_data("alice", "env-v1"))
        wrap = Wrap(
            base64.b64encode(sealed).decode(), base64.b64encode(NONCE).decode(), 2, "env-v1"
        )
        with pytest.raises(Tampered, match="that is no key"):
            await kek.unwrap(of("alice"), wrap)


def test_fingerprint_depends_on_the_key_alone_and_hides_it() -> None:
    key = bytes(range(32))
    seen = local(key).fingerprint("env-v1")
    assert seen == local(key, "other").fingerprint("other") == local(key).fingerprint("any")
    assert seen != local(bytes(32)).fingerprint("env-v1")
    assert key.hex() not in seen
    # A change here would make every recorded fingerprint a mismatch.
    assert seen == "19d6260e5ea3d3e45e6f0f0835817819839cd09acd92209328d65e0d0de12917"


def test_all_zero_key_is_refused_in_production() -> None:
    uri = KekUri.parse("env:KEK")
    with pytest.raises(Misconfigured, match="KEK env:KEK: the all-zero key protects nothing"):
        EnvKek(uri=uri, kek_id="x", key=bytes(32), development=False)


def test_nothing_of_a_key_in_any_repr() -> None:
    kek = local(b"\x07" * 32)
    assert "\\x07" not in repr(kek)
    assert "secret" not in repr(Wrap("secret", "secret", 2, "env-v1"))
