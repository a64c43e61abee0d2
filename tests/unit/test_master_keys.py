"""Master keys through the keyring: what does not open is told apart, and rings as what it is."""

import asyncio
from typing import Any

import pytest
import structlog

from custody.deadline import Deadline
from custody.vault.errors import KekNotConfigured, KekUnavailable, RowTampered, UnwrapFailed
from custody.vault.key_check import is_master_key
from custody.vault.keys import MasterKeys, WrappedKey
from custody.vault.model import Caller, Trust, Vault
from custody.vault.previous import keep
from custody.vault.seals import Seals
from kek_backends.binding import Binding
from kek_backends.env import EnvKek
from kek_backends.errors import Transient
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri
from kek_backends.wrap import Wrap
from tests.datakeys import FixedRing


class Rung:
    """What has rung, and for whom."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, str]] = []

    def row_tampered(self, user_id: str, reason: str) -> None:
        self.rung.append((user_id, reason))

    def legacy_row_refused(self) -> None:
        raise AssertionError("no row was refused for what it is")


class Kek(EnvKek):
    """A KEK that is asked over a network, and may be slow or away."""

    failure: Exception | None = None
    is_slow = False

    def __init__(self, name: str = "one") -> None:
        uri = KekUri.parse(f"env:{name.upper()}")
        super().__init__(uri=uri, kek_id=name, key=name.encode().ljust(32), development=False)

    @property
    def in_process(self) -> bool:
        return False

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        if self.is_slow:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure
        return await super()._unwrap(binding, wrap)


class Keys:
    """Keys of a KEK, with what rang and which kek_ids were admitted."""

    def __init__(self) -> None:
        self.kek, self.alarms, self.admitted = Kek(), Rung(), list[str]()
        seals = Seals(FixedRing.of(), legacy=True, alarms=self.alarms)
        self.keys = MasterKeys(Keyring(self.kek), self._admit, seals)

    async def _admit(self, kek_id: str) -> None:
        self.admitted.append(kek_id)

    async def vault(self, trust: Trust = Trust.SEALED, **changes: Any) -> tuple[bytes, Vault]:
        made = await self.keys.mint(caller(), 7)
        return made.key, made.vault._replace(trust=trust, **changes)


@pytest.fixture
def of() -> Keys:
    return Keys()


def caller(user: str = "alice") -> Caller:
    return Caller(user, "event", None, None, Deadline.after(10))


async def test_a_minted_key_opens_for_its_user_alone(of: Keys) -> None:
    key, vault = await of.vault()
    opened = await of.keys.open(caller(), vault)
    assert (opened.key, opened.generation, opened.previous) == (key, 7, None)
    assert (opened.format_version, opened.kek_id, of.admitted) == (3, "one", ["one"])
    assert vault.key_check is not None
    assert is_master_key("alice", key, vault.key_check)
    with pytest.raises(RowTampered):
        await of.keys.open(caller("bob"), vault)
    assert of.alarms.rung == [("bob", "wrap")]


async def test_a_key_of_a_lost_race_is_wrapped_again(of: Keys) -> None:
    """The same key, in a wrap for another generation; none anew where it is the same one."""
    fresh = await of.keys.mint(caller(), 7)
    assert await of.keys.mint(caller(), 7, fresh) is fresh
    again = await of.keys.mint(caller(), 8, fresh)
    assert (again.key, again.generation) == (fresh.key, 8)
    assert (await of.keys.open(caller(), again.vault)).key == fresh.key


@pytest.mark.parametrize(
    ("trust", "error", "rung"),
    [
        (Trust.SEALED, RowTampered, [("alice", "key-check")]),
        (Trust.LEGACY, UnwrapFailed, []),
    ],
)
async def test_another_key_than_was_checked(
    of: Keys, trust: Trust, error: type[Exception], rung: list[tuple[str, str]]
) -> None:
    _, other = await of.vault()
    _, vault = await of.vault(trust, key_check=other.key_check)
    with structlog.testing.capture_logs() as logs, pytest.raises(error):
        await of.keys.open(caller(), vault)
    assert of.alarms.rung == rung
    assert [(one["user_id"], one["kek"]) for one in logs] == [("alice", "one")] * (not rung)


async def test_a_wrap_of_before_that_does_not_open(of: Keys) -> None:
    _, vault = await of.vault(Trust.LEGACY, generation=8)
    with structlog.testing.capture_logs() as logs, pytest.raises(UnwrapFailed):
        await of.keys.open(caller(), vault)
    assert [(one["event"], one["kek"]) for one in logs] == [("unwrap_failed", "one")]
    with pytest.raises(UnwrapFailed):
        await of.keys.open(caller(), vault._replace(wrap=None))
    assert of.alarms.rung == []


@pytest.mark.parametrize(
    ("is_slow", "reason"), [(False, "the KMS is away"), (True, "one: no answer in time")]
)
async def test_a_kek_that_is_away(of: Keys, reason: str, *, is_slow: bool) -> None:
    _, vault = await of.vault()
    of.kek.failure = Transient(reason)
    of.kek.is_slow = is_slow
    # What is left of it is kept for the audit row.
    soon = caller()._replace(deadline=Deadline.after(1.01))
    with structlog.testing.capture_logs() as logs, pytest.raises(KekUnavailable) as raised:
        await of.keys.open(soon, vault)
    assert raised.value.reason == reason
    (said,) = logs
    assert (said["event"], said["user_id"], said["kek"]) == ("kek_unavailable", "alice", "one")
    assert said["reason"] == reason


async def test_a_kek_that_is_not_configured(of: Keys) -> None:
    _, vault = await of.vault()
    assert vault.wrap is not None
    with structlog.testing.capture_logs() as logs, pytest.raises(KekNotConfigured) as raised:
        await of.keys.open(caller(), vault._replace(wrap=vault.wrap._replace(kek_id="gone")))
    assert [(one["event"], one["kek"]) for one in logs] == [("kek_not_configured", "gone")]
    assert "gone" in str(raised.value.reason)


async def test_what_is_brought_over_is_checked_from_now_on(of: Keys) -> None:
    key, vault = await of.vault(Trust.LEGACY, key_check=None)
    after = await of.keys.bring_over(caller(), vault)
    assert after.key_check is not None
    assert is_master_key("alice", key, after.key_check)
    assert after.wrap not in {None, vault.wrap}
    assert (await of.keys.open(caller(), after)).key == key
    assert after._replace(wrap=vault.wrap, key_check=None) == vault


async def test_the_key_before_comes_with_it_or_nothing_does(of: Keys) -> None:
    fresh: WrappedKey = await of.keys.mint(caller(), 8)
    previous = keep("alice", fresh.key, 7, b"p" * 32)
    vault = fresh.vault._replace(previous=previous)
    assert (await of.keys.open(caller(), vault)).previous == b"p" * 32
    with pytest.raises(RowTampered):
        await of.keys.open(caller(), vault._replace(previous=previous._replace(generation=6)))
    assert of.alarms.rung == [("alice", "previous")]
