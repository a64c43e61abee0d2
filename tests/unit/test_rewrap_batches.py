"""One batch of a re-wrap by itself: what is wrapped, sealed, set aside and left, row by row."""

import pytest

from custody.datakeys.data_key import DataKey
from custody.rewrap.batch import TargetMoved, WrongWrap, rewrap
from custody.rewrap.bringing_over import bring_over
from custody.rewrap.options import Verify
from custody.rewrap.rows import Row, UnsealedRow
from custody.vault.key_check import is_master_key, key_check_value
from custody.vault.sealed_state import SealedState, digest_of
from kek_backends.base import KekBackend, OwnedWrap, Rewrapped, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import Transient
from kek_backends.keyring import Keyring
from tests.datakeys import KEY, KEY_ID, FixedRing
from tests.rewrap.kit import NEW_KEY, CountingKek, new_kek, old_kek
from tests.states import IV, WRAPPED

KEYS = {name: name.encode().ljust(32, b".") for name in ("alice", "bob", "carol", "zoe")}


class Untold(CountingKek):
    """A KMS that re-wraps inside and does not look: it takes one user's key for the others'."""

    def __init__(self) -> None:
        super().__init__("env-v2", NEW_KEY)
        self.wrong: set[str] = set()

    def can_rewrap_from(self, source: KekBackend) -> bool:
        return True

    async def _rewrap(self, items: list[OwnedWrap]) -> list[Rewrapped]:  # type: ignore[override]
        old = old_kek()
        keys = [await old.unwrap(item.binding, item.wrap) for item in items]
        users = [item.binding.subject for item in items]
        return [
            await self._wrap(item.binding, b"?" * 32 if user in self.wrong else key)
            for item, user, key in zip(items, users, keys, strict=True)
        ]


class Torn(CountingKek):
    """A KMS whose wraps do not open."""

    def __init__(self) -> None:
        super().__init__("env-v2", NEW_KEY)

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        return damaged(await super()._wrap(binding, key))


async def row(user: str, *, check: bool = True, key: bytes | None = None) -> Row:
    wrap = await old_kek().wrap(Binding(user, 3), key or KEYS[user])
    return Row(user, 3, wrap, key_check_value(user, KEYS[user]) if check else None, 1)


async def unsealed(user: str, *, wrapped: bool = True, check: bool = True) -> UnsealedRow:
    state = SealedState(
        generation=3,
        serial=4,
        zero_knowledge=not wrapped,
        key_check=key_check_value(user, KEYS[user]) if check else None,
        recovery_digest=digest_of(WRAPPED, IV),
        recovery_format_version=1,
        recovery_set_at="1764300000.000000",
        has_wrap=wrapped,
    )
    wrap = await old_kek().wrap(Binding(user, 3), KEYS[user]) if wrapped else None
    return UnsealedRow(user, state, wrap, 1)


def damaged(wrap: Wrap) -> Wrap:
    return wrap._replace(wrapped_mk=wrap.wrapped_mk[::-1])


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("verify", [*Verify, None])
async def test_what_opens_is_wrapped(verify: Verify | None, *, check: bool) -> None:
    rows = [await row(user, check=check) for user in KEYS]
    keks = Keyring(new_kek(), [old_kek()])
    done, reason = await rewrap(keks, rows, "env-v2", verify)
    assert (reason, done.left, done.set_aside) == (None, 0, [])
    for one, wrap in done.wrapped:
        assert await keks.unwrap(one.binding, wrap) == KEYS[one.user_id]
    with pytest.raises(TargetMoved):
        await rewrap(keks, rows, "env-v3", verify)


async def test_what_does_not_open_is_set_aside_and_what_waits_is_left() -> None:
    rows = [await row(user) for user in KEYS]
    rows[1] = rows[1]._replace(wrap=damaged(rows[1].wrap))
    rows[2] = rows[2]._replace(wrap=rows[2].wrap._replace(format_version=2))
    rows[3] = rows[3]._replace(wrap=rows[3].wrap._replace(kek_id="gone"))
    done, reason = await rewrap(Keyring(new_kek(), [old_kek()]), rows, "env-v2", Verify.ALL)
    assert [one.user_id for one, _ in done.wrapped] == ["alice"]
    said = {one.user_id: why for one, why in done.set_aside}
    assert said["carol"] == "a row that is sealed has a wrap of an old format"
    assert (set(said), done.left) == ({"bob", "carol"}, 1)
    assert "gone" in str(reason)


@pytest.mark.parametrize("check", [True, False])
async def test_a_kms_that_wraps_another_key_is_not_believed(*, check: bool) -> None:
    kms = Untold()
    kms.wrong = {"bob"}
    rows = [await row(user, check=check) for user in KEYS]
    with pytest.raises(WrongWrap):
        await rewrap(Keyring(kms, [old_kek()]), rows, "env-v2", Verify.ALL)


async def test_a_row_that_was_damaged_before_is_no_fault_of_the_kms() -> None:
    """The key that the old wrap opens to is not the user's either; only that row is set aside."""
    kms = Untold()
    rows = [await row("alice"), await row("bob", key=KEYS["zoe"])]
    done, reason = await rewrap(Keyring(kms, [old_kek()]), rows, "env-v2", Verify.ALL)
    assert [one.user_id for one, _ in done.wrapped] == ["alice"]
    ((aside, why),) = done.set_aside
    assert (aside, why) == (rows[1], "the wrap opens to another key than this user's")
    assert (reason, done.left) == (None, 0)


@pytest.mark.parametrize("verify", [Verify.ALL, Verify.SAMPLE, None])
async def test_rows_are_brought_over(verify: Verify | None) -> None:
    """With a wrap or without, with a key check value or without; each with its seal."""
    rows = [
        await unsealed("alice"),
        await unsealed("bob", check=False),
        await unsealed("zoe", wrapped=False),
        await unsealed("carol"),
    ]
    rows[3] = UnsealedRow("carol", rows[3].state, damaged(rows[3].wrap or Wrap("", "", 3, "")), 1)
    keks, data_key = Keyring(new_kek(), [old_kek()]), DataKey.of(KEY_ID, KEY)
    done, reason = await bring_over(keks, FixedRing.of(), rows, "env-v2", verify)
    assert (reason, done.left, list(done.wrapped)) == (None, 0, [])
    assert [one.user_id for one, _ in done.set_aside] == ["carol"]
    found = {one.row.user_id: one for one in done.sealed}
    assert found.keys() == {"alice", "bob", "zoe"}
    for user, one in found.items():
        assert one.key_check is not None
        assert is_master_key(user, KEYS[user], one.key_check)
        state = one.row.state._replace(serial=5, key_check=one.key_check)
        assert one.seal == state.seal(data_key, user)
        if user == "zoe":
            assert one.wrap is None
        else:
            assert one.wrap is not None
            assert await keks.unwrap(Binding(user, 3), one.wrap) == KEYS[user]


async def test_rows_that_wait_for_their_kek_are_left() -> None:
    rows = [await unsealed("alice"), await unsealed("zoe", wrapped=False)]
    keks = Keyring(new_kek())
    done, reason = await bring_over(keks, FixedRing.of(), rows, "env-v2", None)
    assert (done.left, len(done.sealed), list(done.set_aside)) == (1, 1, [])
    assert "env-v1" in str(reason)


async def test_no_row_is_sealed_without_a_data_key() -> None:
    ring = FixedRing.of()
    ring.close()
    with pytest.raises(Transient, match="rows can't be sealed now"):
        await bring_over(Keyring(new_kek(), [old_kek()]), ring, [], "env-v2", None)


async def test_a_kms_that_shows_no_key_is_looked_at_each_time() -> None:
    """Where the row has a key check value, what comes out must fit it: else it is set aside."""
    kms = Untold()
    kms.wrong = {"bob"}
    rows = [await unsealed("alice"), await unsealed("bob")]
    done, _ = await bring_over(
        Keyring(kms, [old_kek()]), FixedRing.of(), rows, "env-v2", Verify.NONE
    )
    assert [one.row.user_id for one in done.sealed] == ["alice"]
    assert [(one.user_id, why) for one, why in done.set_aside] == [
        ("bob", "the wrap opens to another key than this user's")
    ]


@pytest.mark.parametrize("verify", [Verify.ALL, Verify.SAMPLE])
async def test_a_kms_whose_wraps_do_not_open_is_not_believed(verify: Verify) -> None:
    keks, unwrapped = Keyring(Torn(), [old_kek()]), [await unsealed("alice")]
    with pytest.raises(WrongWrap):
        await rewrap(keks, [await row("alice")], "env-v2", verify)
    with pytest.raises(WrongWrap):
        await bring_over(keks, FixedRing.of(), unwrapped, "env-v2", verify)
