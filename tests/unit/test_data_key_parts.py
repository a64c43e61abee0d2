"""What a data key says of others, what its record's seal says, and who hears of a failed look."""

import hmac
from typing import Any

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from custody.datakeys import ring as ring_module
from custody.datakeys.data_key import DataKey
from custody.datakeys.mac import derive
from custody.datakeys.record_seal import RecordSeal
from custody.datakeys.ring import Ring
from custody.db.errors import DatabaseError
from kek_backends.env import EnvKek
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri
from tests.datakeys import KEY, KEY_ID, FixedRing, record_of

OTHER_ID = KEY_ID[:-1] + "2"
ONE, OTHER = DataKey.of(KEY_ID, KEY), DataKey.of(OTHER_ID, b"o" * 32)


def test_a_seal_is_taken_apart_as_it_was_put_together() -> None:
    own, word = "a" * 64, "b" * 64
    for seal in (RecordSeal(own), RecordSeal(own, KEY_ID, word)):
        assert RecordSeal.parse(str(seal)) == seal
    for text in ("", f"1.{own}0", f"2.{own}", f"2.{KEY_ID}.{own}", f"3.{own}", f"1.{'A' * 64}"):
        assert RecordSeal.parse(text) is None


def test_the_word_of_one_is_for_one() -> None:
    """Of its own MAC, under the id, by the one that says so, and by no other key."""
    seal = ONE.vouch(OTHER_ID, OTHER.own)
    assert (seal.own, seal.voucher) == (OTHER.own, KEY_ID)
    texts = ("custody data key vouched for v1", KEY_ID, OTHER_ID, OTHER.own)
    message = "".join(f"{len(one)}:{one}" for one in texts).encode()
    key = derive(KEY, "custody record seal v1")
    assert hmac.digest(key, message, "sha256").hex() == seal.word
    assert ONE.vouches_for(OTHER_ID, str(seal))
    third = KEY_ID[:-1] + "3"
    assert not ONE.vouches_for(third, str(seal))
    assert not OTHER.vouches_for(OTHER_ID, str(seal))
    for other in (
        seal._replace(own=ONE.own),
        seal._replace(word="0" * 64),
        seal._replace(voucher=OTHER_ID),
        RecordSeal(OTHER.own),
    ):
        assert not ONE.vouches_for(OTHER_ID, str(other))


def test_notes_are_signed_with_a_key_of_their_own() -> None:
    signer = Ed25519PrivateKey.from_private_bytes(derive(KEY, "custody audit note v1"))
    assert ONE.audit_signer.public_key() == signer.public_key()


@pytest.mark.parametrize(
    ("failure", "logged"), [(ValueError("secret"), True), (DatabaseError("away"), False)]
)
async def test_a_look_that_fails_for_a_reason_of_its_own_is_logged(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, *, logged: bool
) -> None:
    """Whoever waits hears of either; of the database the readiness speaks already."""

    async def read(_engine: Any) -> Any:
        raise failure

    monkeypatch.setattr(ring_module, "read_records", read)
    kek = EnvKek(uri=KekUri.parse("env:K"), kek_id="k", key=KEY, development=False)
    nobody: Any = None
    ring = Ring(nobody, Keyring(kek), ttl=3600, max_age=86_400)
    with structlog.testing.capture_logs() as logs, pytest.raises(type(failure)):
        await ring.load()
    said = [(one["event"], one.get("error")) for one in logs]
    assert (("data_keys_failed", "ValueError") in said) is logged
    assert "secret" not in str(logs)


async def test_a_record_is_found_by_its_id_or_not_at_all() -> None:
    ring = FixedRing.of()
    assert ring.record(OTHER_ID) is None
    kek = EnvKek(uri=KekUri.parse("env:K"), kek_id="k", key=KEY, development=False)
    other = await record_of(kek, key_id=OTHER_ID)
    ring.take(other)
    assert ring.record(OTHER_ID) is other
    assert Ring.record(FixedRing.with_keys(), OTHER_ID) is None
