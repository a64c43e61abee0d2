"""The keyring: the row says which KEK opens it, and no other is tried."""

from collections.abc import Sequence

import pytest

from kek_backends.base import OwnedWrap, Rewrapped, Wrap
from kek_backends.errors import Denied, Misconfigured, Tampered, UnknownKek
from kek_backends.keyring import Keyring
from tests.bindings import of
from tests.kek.fakes import FakeKms


async def test_new_wraps_use_the_active_kek() -> None:
    active, old = FakeKms("new"), FakeKms("old")
    ring = Keyring(active, [old])
    assert (await ring.wrap(of("alice"), b"k" * 32)).kek_id == "new"
    assert (active.calls, old.calls) == (["wrap alice"], [])
    assert ring.active is active
    assert list(ring) == [active, old]


async def test_unwrap_uses_the_kek_of_the_row() -> None:
    active, old = FakeKms("new"), FakeKms("old", master_key=b"o" * 32)
    ring = Keyring(active, [old])
    assert await ring.unwrap(of("alice"), Wrap("x", "", 3, "old")) == b"o" * 32
    assert (active.calls, old.calls) == ([], ["unwrap alice"])


async def test_failure_is_no_reason_to_try_another() -> None:
    active, old = FakeKms("new"), FakeKms("old", error=Tampered("no"))
    ring = Keyring(active, [old])
    with pytest.raises(Tampered):
        await ring.unwrap(of("alice"), Wrap("x", "", 3, "old"))
    assert active.calls == []


async def test_unknown_kek_id_is_not_tried_at_all() -> None:
    active, old = FakeKms("new"), FakeKms("old")
    with pytest.raises(UnknownKek, match="a row names the KEK gone, and none of CUSTODY_KEK and"):
        await Keyring(active, [old]).unwrap(of("alice"), Wrap("x", "", 3, "gone"))
    assert active.calls == old.calls == []


@pytest.mark.parametrize("ids", [("a", ["a"]), ("a", ["b", "b"]), ("a", ["b", "a"])])
def test_two_keks_under_one_kek_id_are_refused(ids: tuple[str, list[str]]) -> None:
    active = FakeKms(ids[0], text="fake:active")
    old = [FakeKms(kek_id, text=f"fake:old{n}") for n, kek_id in enumerate(ids[1])]
    with pytest.raises(Misconfigured, match=r"fake:\w+ and KEK fake:\w+ share the kek_id \w") as e:
        Keyring(active, old)
    assert "\n" not in str(e.value)


def test_a_kms_listed_twice_is_refused() -> None:
    """Its kek_id is not known yet, so its URI says that it is the same."""
    twice = FakeKms(None, text="fake:one"), FakeKms(None, text="fake:one")
    with pytest.raises(Misconfigured) as caught:
        Keyring(twice[0], twice[1:])
    assert str(caught.value) == "KEK fake:one is listed twice: remove one"
    Keyring(FakeKms(None, text="fake:one"), [FakeKms(None, text="fake:two")])


def test_the_key_named_outright_comes_before_an_alias_of_it() -> None:
    """The alias opens what it pointed at before, but what that key opens is the key's own."""
    alias = FakeKms("arn-2", text="fake:alias", also_holds=["arn-1", "arn-0"])
    named = FakeKms("arn-1", text="fake:arn-1")
    ring = Keyring(alias, [named])
    assert ring.find("arn-2") is alias
    assert ring.find("arn-1") is named
    assert ring.find("arn-0") is alias
    assert ring.find("arn-3") is None


def test_no_kek_id_is_nobodys() -> None:
    assert Keyring(FakeKms(None)).find("") is None


def item(user_id: str, kek_id: str) -> OwnedWrap:
    return OwnedWrap(of(user_id), Wrap("x", "", 3, kek_id))


def carried(results: Sequence[Rewrapped]) -> list[str]:
    return [r.wrapped_mk if isinstance(r, Wrap) else type(r).__name__ for r in results]


async def test_rewrap_goes_through_this_process_where_the_kms_can_not() -> None:
    active, old = FakeKms("new", text="fake:new"), FakeKms("old", text="fake:old")
    results = await Keyring(active, [old]).rewrap([item("alice", "old"), item("bob", "new")])
    assert carried(results) == ["opaque", "opaque"]
    assert old.calls == ["unwrap alice"]
    assert active.calls == ["wrap alice", "unwrap bob", "wrap bob"]


async def test_rewrap_stays_in_the_kms_where_it_can_and_keeps_the_order() -> None:
    active = FakeKms("new", text="fake:new", takes=["fake:new", "fake:old"])
    old, local = FakeKms("old", text="fake:old"), FakeKms("local", text="fake:local")
    items = [
        item("alice", "old"),
        item("bob", "local"),
        item("carol", "gone"),
        item("dave", "new"),
        item("erin", "old"),
    ]
    results = await Keyring(active, [old, local]).rewrap(items)
    assert carried(results) == [
        "rewrapped alice",
        "opaque",
        "UnknownKek",
        "rewrapped dave",
        "rewrapped erin",
    ]
    assert "a row names the KEK gone" in str(results[2])
    assert old.calls == []
    assert local.calls == ["unwrap bob"]
    assert active.calls == ["wrap bob", "rewrap alice dave erin"]


@pytest.mark.parametrize("format_version", [1, 2])
async def test_rewrap_of_an_old_format_goes_through_this_process(format_version: int) -> None:
    """Only its key shows whose it is; the KMS would give a wrong one a good binding."""
    active = FakeKms("new", text="fake:new", takes=["fake:new", "fake:old"])
    old = FakeKms("old", text="fake:old")
    legacy = Wrap("x", "", format_version, "old")
    items = [OwnedWrap(of("alice"), legacy, lambda key: False), OwnedWrap(of("bob"), legacy)]
    assert carried(await Keyring(active, [old]).rewrap(items)) == ["Tampered", "opaque"]
    assert old.calls == ["unwrap alice", "unwrap bob"]
    assert active.calls == ["wrap bob"]


async def test_rewrap_that_the_kms_refuses_as_a_whole_is_told_of_each() -> None:
    active = FakeKms("new", text="fake:new", takes=["fake:old"], error=Denied("no"))
    old = FakeKms("old", text="fake:old")
    results = await Keyring(active, [old]).rewrap([item("alice", "old"), item("bob", "old")])
    assert carried(results) == ["Denied", "Denied"]


async def test_one_bad_item_does_not_stop_the_next() -> None:
    active, old = FakeKms("new"), FakeKms("old", text="fake:old", error=Tampered("no"))
    results = await Keyring(active, [old]).rewrap([item("alice", "old"), item("bob", "new")])
    assert carried(results) == ["Tampered", "opaque"]


async def test_rewrap_of_nothing() -> None:
    active = FakeKms("new", takes=["fake:key"])
    assert await Keyring(active).rewrap([]) == []
    assert active.calls == []


async def test_close_closes_all_of_them() -> None:
    backends = [FakeKms("a", text="fake:a"), FakeKms("b", text="fake:b")]
    await Keyring(backends[0], backends[1:]).close()
    assert [backend.calls for backend in backends] == [["close"], ["close"]]
