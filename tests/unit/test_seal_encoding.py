"""What is sealed is one text and no other; MACs are what others compute, too."""

import hashlib
import hmac
import itertools
import json
import random
import re

import pytest

from custody.datakeys.data_key import DataKey, id_of, new_id
from custody.datakeys.encoding import field, fields
from custody.datakeys.mac import Mac
from custody.datakeys.sealer import Sealer
from tests.datakeys import KEY, KEY_ID, FixedRing
from tests.servers import ROOT

VECTORS = json.loads((ROOT / "tests/vectors/seal-macs.json").read_text("utf-8"))
# What an attacker would build one list of fields from that looks like another one.
PIECES = ["", "-", "0:", "1:", "1:a", "2:1:", ":", "a", "12", "é", "🙂", "-1:a", "\0", "\n", None]


def read(encoded: str) -> list[str | None]:
    """Take fields apart again, by what the numbers say alone."""
    data = encoded.encode()
    found: list[str | None] = []
    while data:
        if data[:1] == b"-":
            found.append(None)
            data = data[1:]
            continue
        number, _, rest = data.partition(b":")
        found.append(rest[: int(number)].decode())
        data = rest[int(number) :]
    return found


def test_every_list_is_read_back() -> None:
    seen: dict[bytes, tuple[str | None, ...]] = {}
    for length in range(4):
        for values in itertools.product(PIECES, repeat=length):
            encoded = fields(*values)
            assert read(encoded.decode()) == list(values)
            assert seen.setdefault(encoded, values) == values


def test_random_lists_are_read_back() -> None:
    dice = random.Random(15)  # noqa: S311
    for _ in range(2000):
        values = ["".join(dice.choices("0123:-aé🙂", k=dice.randrange(9))) for _ in range(13)]
        assert read(fields(*values).decode()) == values


def test_a_field_counts_bytes() -> None:
    assert [field(value) for value in ("", "a", "é", "🙂", None)] == [
        *("0:", "1:a", "2:é", "4:🙂", "-")
    ]


def hkdf(key: bytes, info: str) -> bytes:
    """RFC 5869 for 32 bytes and no salt, by hand."""
    extracted = hmac.digest(bytes(32), key, "sha256")
    return hmac.digest(extracted, info.encode() + b"\x01", "sha256")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda one: one["use"])
def test_vectors(vector: dict[str, str]) -> None:
    key = bytes.fromhex(vector["key"])
    whole = (vector["beginning"] + vector["message"]).encode()
    assert hmac.new(hkdf(key, vector["use"]), whole, hashlib.sha256).hexdigest() == vector["mac"]
    mac = Mac(key, vector["use"], vector["beginning"].encode())
    for _ in range(2):  # what it has absorbed is not used up
        assert mac.of(vector["message"].encode()) == vector["mac"]
        assert mac.is_mac(vector["mac"], vector["message"].encode())


def test_the_seals_of_a_data_key() -> None:
    key = DataKey.of(KEY_ID, KEY)
    by_use = {vector["use"]: vector for vector in VECTORS if vector["key"] == KEY.hex()}
    row = by_use["custody row seal v1"]
    assert key.row_seal.of(row["message"].encode()) == row["mac"]
    assert key.own_seal == "1." + by_use["custody record seal v1"]["mac"]
    assert key.prefix == f"1.{KEY_ID}."
    assert KEY.hex() not in repr(key)
    assert key.own_seal not in repr(key)


@pytest.mark.parametrize("odd", ["", "0" * 63, "0" * 65, "ключ", "A" * 64, "\0", " "])
def test_a_mac_is_compared_with_anything(odd: str) -> None:
    mac = Mac(KEY, "a use")
    assert not mac.is_mac(odd, b"message")
    assert not mac.is_mac(mac.of(b"message").upper(), b"message")
    assert not mac.is_mac(mac.of(b"message"), b"massage")


def test_each_use_and_each_key_has_a_mac_of_its_own() -> None:
    macs = {
        Mac(key, use, beginning).of(b"message")
        for key in (KEY, bytes(32))
        for use in ("custody row seal v1", "custody record seal v1")
        for beginning in (b"", b"1:a")
    }
    assert len(macs) == 8


def test_ids() -> None:
    ids = [new_id() for _ in range(200)]
    assert len(set(ids)) == 200
    for one in ids:
        assert re.fullmatch(r"dk-[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}", one)
        assert id_of(f"1.{one}.") == one
    assert [one[:15] for one in ids] == sorted(one[:15] for one in ids)
    for odd in (
        "",
        "1.",
        KEY_ID,
        f"1.{KEY_ID}",
        f"2.{KEY_ID}.",
        f"1.{KEY_ID.upper()}.",
        f"1.{KEY_ID}.\n",
    ):
        assert id_of(odd) is None
    with pytest.raises(ValueError, match="an id and 32 bytes"):
        DataKey.of("dk-1", KEY)
    with pytest.raises(ValueError, match="an id and 32 bytes"):
        DataKey.of(KEY_ID, KEY[:31])


def test_records_of_keks_are_sealed() -> None:
    ring = FixedRing.of()
    sealer, record = Sealer(ring), ("custody kek record v1", "env-v1", "env", "f" * 64)
    seal = sealer.seal(*record)
    assert seal is not None
    assert (len(seal), seal[:38]) == (102, f"1.{KEY_ID}.")
    assert sealer.judge(seal, *record) is True
    others = ("another label v1", "env-v2", "vault", None)
    for other in ((*record[:at], one, *record[at + 1 :]) for at, one in enumerate(others)):
        assert sealer.judge(seal, *other) is False
    for odd in (None, "", seal[:-1], seal[:38], seal.upper(), "ключ", seal.replace("dk-0", "dk-1")):
        assert sealer.judge(odd, *record) is False
    ring.close()
    assert sealer.seal(*record) is None
    for any_seal in (seal, None, "x"):
        assert sealer.judge(any_seal, *record) is None
