"""One batch of a deep run by itself: what is sealed anew, wrapped anew, set aside and left."""

from datetime import UTC, datetime

import pytest

from custody.datakeys.data_key import DataKey
from custody.db.errors import DatabaseError
from custody.rewrap.batch import TargetMoved, WrongWrap
from custody.rewrap.options import Verify
from custody.rewrap.resealing import reseal
from custody.rewrap.rows import SealedRow
from custody.rewrap.runs import Run, State
from custody.rewrap.storing import Done, Resealed
from custody.vault.key_check import key_check_value
from custody.vault.sealed_state import SealedState, digest_of
from kek_backends.base import Wrap
from kek_backends.binding import Binding, Purpose
from kek_backends.errors import Transient
from kek_backends.keyring import Keyring
from tests.datakeys import KEY, KEY_ID, FixedRing
from tests.rewrap.kit import NEW_KEY, Cheating, Counted, CountingKek, keyring, new_kek, old_kek
from tests.states import IV, WRAPPED

LONG_BEFORE = DataKey.of(KEY_ID[:-1] + "0", bytes(range(2, 34)))
BEFORE = DataKey.of(KEY_ID, KEY)
CURRENT = DataKey.of(KEY_ID[:-1] + "2", bytes(range(1, 33)))
KEYS = {name: name.encode().ljust(32, b".") for name in ("alice", "bob", "carol", "zoe")}
WHEN = datetime(2026, 11, 29, tzinfo=UTC)


def ring_of(*keys: DataKey) -> FixedRing:
    return FixedRing.with_keys(*(keys or (BEFORE, CURRENT)))


def ring_with_one_closed() -> FixedRing:
    ring = ring_of(LONG_BEFORE, BEFORE, CURRENT)
    ring.close(LONG_BEFORE.id)
    return ring


def run_of(*, everything: bool = False, data_key: str = CURRENT.id) -> Run:
    counts = {"total": 4, "done": 0, "moved": 0, "failed": 0}
    return Run(
        id=1,
        target="env-v2",
        everything=everything,
        started_by="here",
        sources=(),
        state=State.RUNNING,
        **counts,
        started_at=WHEN,
        heartbeat_at=WHEN,
        ended_at=None,
        data_key=data_key,
    )


async def row_of(user: str, *, by: DataKey = BEFORE, wrapped: bool = True) -> SealedRow:
    """Return a row that was sealed before, with its recovery wrap and a pending rotation."""
    state = SealedState(
        generation=3,
        serial=9,
        zero_knowledge=not wrapped,
        key_check=key_check_value(user, KEYS[user]),
        recovery_digest=digest_of(WRAPPED, IV),
        recovery_format_version=1,
        recovery_set_at="1764300000.000000",
        has_wrap=wrapped,
        previous_generation=2,
        previous_digest=digest_of(IV, WRAPPED),
    )
    wrap = await old_kek().wrap(Binding(user, 3), KEYS[user]) if wrapped else None
    return SealedRow(user, state.seal(by, user), state, wrap, 1, is_set_aside=False)


def with_wrap(row: SealedRow, **changes: str | int) -> SealedRow:
    assert row.wrap is not None
    return row._replace(wrap=Wrap(**{**row.wrap._asdict(), **changes}))


def by_user(done: Done) -> dict[str, Resealed]:
    assert (list(done.wrapped), list(done.set_aside), list(done.sealed)) == ([], [], [])
    return {one.row.user_id: one for one in done.resealed}


def is_sealed(one: Resealed) -> bool:
    """Say whether the new seal is that of the row as it is then: the database counts the change."""
    state = one.row.state._replace(serial=10)
    return one.seal == state.seal(CURRENT, one.row.user_id)


@pytest.mark.parametrize("verify", [*Verify, None])
async def test_rows_are_wrapped_and_sealed_anew(verify: Verify | None) -> None:
    rows = [await row_of(user, wrapped=user != "zoe") for user in KEYS]
    keks = keyring()
    done, reason = await reseal(keks, ring_of(), rows, run_of(), verify)
    assert (reason, done.left) == (None, 0)
    found = by_user(done)
    assert found.keys() == KEYS.keys()
    for user, one in found.items():
        assert is_sealed(one)
        assert one.reason is None
        if user == "zoe":
            assert one.wrap is None
        else:
            assert one.wrap is not None
            assert one.wrap.kek_id == "env-v2"
            assert await keks.unwrap(Binding(user, 3), one.wrap) == KEYS[user]


@pytest.mark.parametrize(
    ("verify", "some"), [(None, 1), (Verify.SAMPLE, 1), (Verify.ALL, 3), (Verify.NONE, 0)]
)
async def test_so_many_wraps_are_opened_again(verify: Verify | None, some: int) -> None:
    kek = Counted()
    rows = [await row_of(user) for user in ("alice", "bob", "carol")]
    await reseal(Keyring(kek, [old_kek()]), ring_of(), rows, run_of(), verify)
    assert kek.unwrapped.total() == some


async def test_a_wrap_that_is_where_it_belongs_stays() -> None:
    """Unless all are to be made anew."""
    kek = new_kek()
    row = await row_of("alice")
    row = row._replace(wrap=await kek.wrap(row_binding(row), KEYS["alice"]))
    done, _ = await reseal(Keyring(kek), ring_of(), [row], run_of(), None)
    assert by_user(done)["alice"].wrap is None
    assert is_sealed(by_user(done)["alice"])
    done, _ = await reseal(Keyring(kek), ring_of(), [row], run_of(everything=True), None)
    assert by_user(done)["alice"].wrap not in {None, row.wrap}


def row_binding(row: SealedRow) -> Binding:
    return Binding(row.user_id, row.state.generation)


@pytest.mark.parametrize(
    "change",
    [
        {"key_check": "0" * 64},
        {"serial": 8},
        {"generation": 4},
        {"zero_knowledge": True},
        {"recovery_digest": None},
        {"previous_digest": None},
        {"has_wrap": False},
    ],
    ids=str,
)
async def test_what_was_not_sealed_so_is_set_aside_as_it_is(change: dict[str, object]) -> None:
    rows = [await row_of("alice"), await row_of("bob")]
    rows[1] = rows[1]._replace(state=SealedState(**{**rows[1].state._asdict(), **change}))
    done, reason = await reseal(keyring(), ring_of(), rows, run_of(), None)
    assert (reason, done.left) == (None, 0)
    assert is_sealed(by_user(done)["alice"])
    assert by_user(done)["bob"] == Resealed(rows[1], None, None, "the row is not what was sealed")


@pytest.mark.parametrize("seal", ["", "no seal", "1.dk-" + "f" * 32 + "." + "0" * 64])
async def test_a_seal_by_nobody_of_ours_is_set_aside(seal: str) -> None:
    row = (await row_of("alice"))._replace(seal=seal)
    done, reason = await reseal(keyring(), ring_of(), [row], run_of(), None)
    assert (reason, done.left) == (None, 0)
    assert by_user(done)["alice"][1:] == (None, None, "the row is not what was sealed")


async def test_a_seal_of_another_users_row_is_set_aside() -> None:
    row, other = await row_of("alice"), await row_of("bob")
    row = row._replace(seal=other.seal)
    done, _ = await reseal(keyring(), ring_of(), [row], run_of(), None)
    assert by_user(done)["alice"].seal is None


async def test_what_a_data_key_sealed_that_is_not_open_is_left() -> None:
    waiting = [await row_of(user, by=LONG_BEFORE) for user in ("bob", "carol")]
    rows = [await row_of("alice"), *waiting]
    done, reason = await reseal(keyring(), ring_with_one_closed(), rows, run_of(), None)
    assert done.left == 2
    assert str(reason) == "the data key that rows are sealed with can't be opened now"
    assert isinstance(reason, Transient)
    assert by_user(done).keys() == {"alice"}


async def test_a_wrap_that_does_not_open_is_set_aside_and_its_row_sealed() -> None:
    """Else its data key could never be ended."""
    rows = [await row_of("alice"), await row_of("bob"), await row_of("carol")]
    assert rows[1].wrap is not None
    rows[1] = with_wrap(rows[1], wrapped_mk=rows[1].wrap.wrapped_mk[::-1])
    rows[2] = with_wrap(rows[2], format_version=2)
    done, reason = await reseal(keyring(), ring_of(), rows, run_of(), Verify.ALL)
    assert (reason, done.left) == (None, 0)
    found = by_user(done)
    assert found["alice"].reason is None
    assert all(map(is_sealed, found.values()))
    assert (found["bob"].wrap, found["carol"].wrap) == (None, None)
    assert found["bob"].reason
    assert found["carol"].reason == "a row that is sealed has a wrap of an old format"


async def test_one_that_was_set_aside_before_is_only_sealed() -> None:
    kek = new_kek()
    row = (await row_of("alice"))._replace(is_set_aside=True)
    done, reason = await reseal(Keyring(kek, [old_kek()]), ring_of(), [row], run_of(), None)
    assert (reason, done.left, kek.wrapped.total()) == (None, 0, 0)
    one = by_user(done)["alice"]
    assert (one.wrap, one.reason) == (None, None)
    assert is_sealed(one)


async def test_a_row_of_a_kek_that_is_not_there_is_only_sealed() -> None:
    row = with_wrap(await row_of("alice"), kek_id="gone")
    done, reason = await reseal(keyring(), ring_of(), [row], run_of(), None)
    assert (reason, done.left) == (None, 0)
    assert (by_user(done)["alice"].wrap, by_user(done)["alice"].reason) == (None, None)


async def test_a_row_whose_kek_refuses_is_only_sealed() -> None:
    class Refusing(Counted):
        def refusal(self, kek_id: str) -> str | None:
            return f"not {kek_id}"

    refusing = Refusing()
    row = await row_of("alice")
    row = row._replace(wrap=await refusing.wrap(row_binding(row), KEYS["alice"]))
    keks = Keyring(old_kek(), [refusing])
    done, reason = await reseal(keks, ring_of(), [row], run_of(everything=True), None)
    assert (reason, done.left, refusing.unwrapped.total()) == (None, 0, 0)
    assert is_sealed(by_user(done)["alice"])


async def test_rows_whose_kek_is_away_are_left() -> None:
    class Away(Counted):
        async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
            if binding.subject == "bob":
                raise Transient("away")
            return await super()._unwrap(binding, wrap)

    away = Away()
    rows = [await row_of("alice"), await row_of("bob")]
    rows = [row._replace(wrap=await away.wrap(row_binding(row), KEYS[row.user_id])) for row in rows]
    done, reason = await reseal(
        Keyring(away), ring_of(), rows, run_of(everything=True), Verify.NONE
    )
    assert (str(reason), done.left) == ("away", 1)
    assert by_user(done).keys() == {"alice"}


async def test_both_reasons_to_leave_rows_are_counted_and_the_first_is_told() -> None:
    class Away(Counted):
        async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
            raise Transient("away")

    away = Away()
    rows = [await row_of("alice"), await row_of("bob", by=LONG_BEFORE)]
    rows = [row._replace(wrap=await away.wrap(row_binding(row), KEYS[row.user_id])) for row in rows]
    ring, run = ring_with_one_closed(), run_of(everything=True)
    done, reason = await reseal(Keyring(away), ring, rows, run, None)
    assert (str(reason), done.left, by_user(done)) == ("away", 2, {})


async def test_a_wrap_of_another_key_ends_the_run() -> None:
    keks = Keyring(Cheating(Purpose.MASTER_KEY), [old_kek()])
    with pytest.raises(WrongWrap):
        await reseal(keks, ring_of(), [await row_of("alice")], run_of(), None)


async def test_a_kms_whose_key_has_moved_on_ends_the_run() -> None:
    keks = Keyring(CountingKek("env-v3", NEW_KEY), [old_kek()])
    with pytest.raises(TargetMoved):
        await reseal(keks, ring_of(), [await row_of("alice")], run_of(), None)


async def test_a_promotion_that_was_not_seen_yet_is_looked_for() -> None:
    class Promotes(FixedRing):
        async def _load(self) -> None:
            self.add(CURRENT)

    ring = Promotes.with_keys(BEFORE)
    done, reason = await reseal(keyring(), ring, [await row_of("alice")], run_of(), None)
    assert (reason, done.left) == (None, 0)
    assert is_sealed(by_user(done)["alice"])


async def test_nothing_is_sealed_with_another_data_key_than_the_runs() -> None:
    class Down(FixedRing):
        async def _load(self) -> None:
            raise DatabaseError

    for ring in (Down.with_keys(BEFORE), ring_of(BEFORE)):
        with pytest.raises(Transient, match=r"rows can't be sealed now: the data key is another"):
            await reseal(keyring(), ring, [await row_of("alice")], run_of(), None)
    ring = ring_of()
    ring.close()
    with pytest.raises(Transient, match=r"closed by a test"):
        await reseal(keyring(), ring, [await row_of("alice")], run_of(), None)
