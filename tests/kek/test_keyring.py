"""The keyring: the row says which KEK opens it, and no other is tried."""

import pytest

from kek_backends.base import Wrap
from kek_backends.errors import Misconfigured, Tampered, UnknownKek
from kek_backends.keyring import Keyring
from tests.kek.fakes import FakeKms


async def test_new_wraps_use_the_active_kek() -> None:
    active, old = FakeKms("new"), FakeKms("old")
    ring = Keyring(active, [old])
    assert (await ring.wrap("alice", b"k" * 32)).kek_id == "new"
    assert (active.calls, old.calls) == (["wrap alice"], [])
    assert ring.active is active
    assert list(ring) == [active, old]


async def test_unwrap_uses_the_kek_of_the_row() -> None:
    active, old = FakeKms("new"), FakeKms("old", master_key=b"o" * 32)
    ring = Keyring(active, [old])
    assert await ring.unwrap("alice", Wrap("x", "", 2, "old")) == b"o" * 32
    assert (active.calls, old.calls) == ([], ["unwrap alice"])


async def test_failure_is_no_reason_to_try_another() -> None:
    active, old = FakeKms("new"), FakeKms("old", error=Tampered("no"))
    ring = Keyring(active, [old])
    with pytest.raises(Tampered):
        await ring.unwrap("alice", Wrap("x", "", 2, "old"))
    assert active.calls == []


async def test_unknown_kek_id_is_not_tried_at_all() -> None:
    active, old = FakeKms("new"), FakeKms("old")
    with pytest.raises(UnknownKek, match="a row names the KEK gone, and none of CUSTODY_KEK and"):
        await Keyring(active, [old]).unwrap("alice", Wrap("x", "", 2, "gone"))
    assert active.calls == old.calls == []


@pytest.mark.parametrize("ids", [("a", ["a"]), ("a", ["b", "b"]), ("a", ["b", "a"])])
def test_two_keks_under_one_kek_id_are_refused(ids: tuple[str, list[str]]) -> None:
    active = FakeKms(ids[0], text="fake:active")
    old = [FakeKms(kek_id, text=f"fake:old{n}") for n, kek_id in enumerate(ids[1])]
    with pytest.raises(Misconfigured, match=r"fake:\w+ and KEK fake:\w+ share the kek_id \w") as e:
        Keyring(active, old)
    assert "\n" not in str(e.value)
