"""Envelope mode: a data key is one more KEK, and wraps nothing once it is gone."""

import asyncio
from typing import Any

import pytest

from custody.datakeys.data_key import DataKey
from custody.datakeys.envelope import Envelope, UserKeyring
from custody.datakeys.errors import NoSuchDataKey
from custody.deadline import Deadline
from custody.keks.census import unreadable
from custody.vault.errors import KekUnavailable
from custody.vault.key_check import key_check_value
from custody.vault.keys import MasterKeys, WrappedKey
from custody.vault.model import Caller
from kek_backends.base import FORMAT_CURRENT, FORMAT_UNBOUND, FORMAT_USER, KekBackend, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import KekError, Misconfigured, Tampered, Transient, UnknownKek
from kek_backends.keyring import Keyring
from kek_backends.testing import CHECKS, Check, Subject
from kek_backends.uri import KekUri
from tests.datakeys import KEY, KEY_ID, FixedRing
from tests.kek.broken import TEXT
from tests.leaks import remember
from tests.rewrap.kit import CountingKek, new_kek, old_kek

ALICE = Binding("alice", 3)
ANOTHER_ID = "dk-01932e00000070008000000000000009"
MASTER_KEY = b"a master key of alice, 32 bytes."
URI = KekUri.parse("env:KEK")


def envelope(ring: FixedRing | None = None) -> Envelope:
    return Envelope(ring or FixedRing.of(), URI)


def keyring(active: str, *old: CountingKek, ring: FixedRing | None = None) -> UserKeyring:
    kek = CountingKek("env-v2", TEXT)
    kek._uri = KekUri.parse(active)
    return UserKeyring(Keyring(kek, old), ring or FixedRing.of())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Check) -> None:
    async def open_() -> KekBackend:
        return envelope()

    await check(Subject(open_, [remember(KEY.hex())]))


async def test_a_wrap_carries_the_data_keys_id() -> None:
    wrap = await envelope().wrap(ALICE, MASTER_KEY)
    assert (wrap.kek_id, wrap.format_version) == (KEY_ID, FORMAT_CURRENT)
    assert await envelope().unwrap(ALICE, wrap) == MASTER_KEY


async def test_another_data_key_opens_nothing() -> None:
    wrap = await envelope().wrap(ALICE, MASTER_KEY)
    other = envelope(FixedRing.of(bytes(reversed(KEY))))
    with pytest.raises(Tampered):
        await other.unwrap(ALICE, wrap)


async def test_a_wrap_of_one_data_key_is_none_of_another() -> None:
    """The same bytes under another id, as whoever writes rows may have it."""
    ring = FixedRing.of()
    ring.add(DataKey.of(ANOTHER_ID, KEY))
    wrap = await envelope().wrap(ALICE, MASTER_KEY)
    with pytest.raises(Tampered):
        await envelope(ring).unwrap(ALICE, wrap._replace(kek_id=ANOTHER_ID))


@pytest.mark.parametrize("version", [FORMAT_UNBOUND, FORMAT_USER, 0, 4])
async def test_old_formats_are_none(version: int) -> None:
    wrap = await envelope().wrap(ALICE, MASTER_KEY)
    with pytest.raises(Tampered):
        await envelope().unwrap(ALICE, wrap._replace(format_version=version))


async def test_a_wrap_of_its_kek_is_none_of_the_envelope() -> None:
    """And none of the other way round: which key wraps is in what a wrap is bound to."""
    kek = CountingKek("env-v2", TEXT)
    wrap = await kek.wrap(ALICE, MASTER_KEY)
    with pytest.raises(Tampered):
        await envelope().unwrap(ALICE, wrap._replace(kek_id=KEY_ID))


async def test_without_an_open_data_key_nothing_is_wrapped_or_opened() -> None:
    ring = FixedRing.of()
    closed = envelope(ring)
    wrap = await closed.wrap(ALICE, MASTER_KEY)
    assert closed.refusal(KEY_ID) is None
    ring.close()
    assert closed.kek_id is closed.fingerprint(KEY_ID) is None
    assert "closed by a test" in (closed.refusal(KEY_ID) or "")
    for work in (closed.wrap(ALICE, MASTER_KEY), closed.unwrap(ALICE, wrap)):
        with pytest.raises(Transient, match="closed by a test"):
            await work


async def test_a_data_key_that_is_not_on_record() -> None:
    wrap = await envelope().wrap(ALICE, MASTER_KEY)
    assert envelope().holds(ANOTHER_ID)
    assert "there is no record of it: restore" in (envelope().refusal(ANOTHER_ID) or "")
    with pytest.raises(UnknownKek, match=f"there is no data key {ANOTHER_ID}: restore"):
        await envelope().unwrap(ALICE, wrap._replace(kek_id=ANOTHER_ID))


@pytest.mark.parametrize("kek_id", ["dk-", "dk-1", KEY_ID + "0", KEY_ID.upper(), "env-v1", ""])
def test_it_holds_ids_of_data_keys_alone(kek_id: str) -> None:
    assert not envelope().holds(kek_id)


def test_no_uri_names_it() -> None:
    with pytest.raises(Misconfigured, match="name the KEK"):
        Envelope.from_uri(URI, environ={}, development=True)


# ── what users' keys are wrapped under ────────────────────────────────────────


async def test_the_mode_of_the_active_kek_says_what_wraps() -> None:
    for uri, stamp in (("env:KEK", "env-v2"), ("env:KEK?mode=envelope", KEY_ID)):
        keys = keyring(uri)
        assert keys.active.kek_id == stamp
        assert (await keys.wrap(ALICE, MASTER_KEY)).kek_id == stamp
        assert keys.keks.active.kek_id == "env-v2"
        assert next(iter(keys)).kek_id == stamp
        assert set(keys.kek_ids) == {"env-v2", KEY_ID}


async def test_both_open_in_either_mode() -> None:
    direct, mode = keyring("env:KEK"), keyring("env:KEK?mode=envelope")
    for wrap in (await direct.wrap(ALICE, MASTER_KEY), await mode.wrap(ALICE, MASTER_KEY)):
        for keys in (direct, mode):
            assert await keys.unwrap(ALICE, wrap) == MASTER_KEY


async def test_a_kek_wraps_no_user_in_envelope_mode() -> None:
    keys = keyring("env:KEK?mode=envelope")
    (kek,) = keys.keks
    await keys.wrap(ALICE, MASTER_KEY)
    assert isinstance(kek, CountingKek)
    assert not kek.wrapped


async def test_an_old_kek_comes_and_goes() -> None:
    keys, old = keyring("env:KEK?mode=envelope"), old_kek()
    wrap = await old.wrap(ALICE, MASTER_KEY)
    with pytest.raises(UnknownKek):
        await keys.unwrap(ALICE, wrap)
    assert keys.replace(Keyring(keys.keks.active, [old])) == ()
    assert await keys.unwrap(ALICE, wrap) == MASTER_KEY
    assert old in list(keys)
    assert keys.replace(Keyring(keys.keks.active)) == (old,)
    with pytest.raises(ValueError, match="with a restart only"):
        keys.replace(Keyring(new_kek()))


@pytest.mark.parametrize("kek_id", ["dk-", "dk-nothing"])
async def test_what_only_looks_like_a_data_key_is_nobodys(kek_id: str) -> None:
    assert keyring("env:KEK").find(kek_id) is None
    with pytest.raises(UnknownKek):
        await keyring("env:KEK").unwrap(ALICE, Wrap("", "", FORMAT_CURRENT, kek_id))
    # CUSTODY_OLD_KEKS would not take it.
    assert unreadable(keyring("env:KEK"), [kek_id]) == (
        f"rows carry {kek_id}, which is no data key of ours: restore them",
    )


@pytest.mark.parametrize("kek_id", [ANOTHER_ID, KEY_ID])
async def test_a_request_waits_for_a_data_key_no_longer_than_it_may(kek_id: str) -> None:
    """A row may name one that is not open, and its KMS may hang."""

    class HangingRing(FixedRing):
        async def get(self, prefix: str) -> DataKey:
            return await asyncio.Future()

    ring = HangingRing.of()
    wrap = (await envelope(ring).wrap(ALICE, MASTER_KEY))._replace(kek_id=kek_id)
    if kek_id == KEY_ID:
        ring.close()
    keys: Any = keyring("env:KEK?mode=envelope", ring=ring)
    seals: Any = None
    masters = MasterKeys(keys, keys.wrap, seals)
    caller = Caller("alice", "event", None, None, Deadline.after(1.1))
    check = key_check_value("alice", MASTER_KEY)
    vault = WrappedKey(ALICE.generation, MASTER_KEY, wrap, check).vault
    with pytest.raises(KekUnavailable):
        await asyncio.wait_for(masters.open(caller, vault), 3)


async def test_nothing_that_goes_wrong_shows_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: Any, prefix: str) -> DataKey:
        raise NoSuchDataKey("none")

    monkeypatch.setattr(FixedRing, "get", fail)
    wrap = Wrap("AAAA", "AAAA", FORMAT_CURRENT, ANOTHER_ID)
    with pytest.raises(KekError) as raised:
        await envelope().unwrap(ALICE, wrap)
    assert raised.value.__cause__ is raised.value.__context__ is None
    assert KEY.hex() not in repr(DataKey.of(KEY_ID, KEY))
