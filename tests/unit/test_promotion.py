"""One data key is current; others stand by its word alone, and nothing leads back."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from custody.datakeys import ring as ring_module
from custody.datakeys.data_key import DataKey, made_at, new_id
from custody.datakeys.errors import DataKeyUnavailable, NoSuchDataKey
from custody.datakeys.records import Record
from custody.datakeys.ring import Ring
from kek_backends.errors import Transient
from kek_backends.keyring import Keyring
from tests.datakeys import KEY, KEY_ID, record_of
from tests.proofs import some
from tests.unit.test_ring import MAX_AGE, OTHER, OTHER_ID, PREFIX, TTL, Place, kek_of

OTHER_PREFIX = f"1.{OTHER_ID}."
FIRST, SECOND = DataKey.of(KEY_ID, KEY), DataKey.of(OTHER_ID, OTHER)
THIRD = DataKey.of(KEY_ID[:-1] + "3", b"3" * 32)


class Life:
    """The records of two data keys in each step of a rotation.

    Args:
        first, second: their records, each vouching for itself.
    """

    def __init__(self, first: Record, second: Record) -> None:
        self.first, self.second = first, second
        self.successor = replace(second, seal=str(FIRST.vouch(OTHER_ID, SECOND.own)))
        self.predecessor = replace(first, seal=str(SECOND.vouch(KEY_ID, FIRST.own)))
        self.announced = [first, self.successor]
        self.promoted = [self.predecessor, second]
        self.ended = [second]


@pytest.fixture
async def life(place: Place) -> Life:
    second = await record_of(place.kek, key=OTHER, key_id=OTHER_ID)
    return Life(place.records[0], second)


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place()
    monkeypatch.setattr(ring_module, "read_records", made.read)
    made.records = [await record_of(made.kek)]
    return made


def state(ring: Ring) -> tuple[str | None, set[str]]:
    """Return which data key is current, and which are open."""
    current = ring.current
    return None if current is None else current.id, set(ring.open_ids)


async def show(place: Place, *steps: list[Record]) -> None:
    for records in steps:
        place.records = records
        await place.ring.load()


BOTH = {KEY_ID, OTHER_ID}


async def test_a_rotation_as_a_daemon_sees_it(place: Place, life: Life) -> None:
    await show(place, [life.first])
    assert state(place.ring) == (KEY_ID, {KEY_ID})
    await show(place, life.announced)
    assert state(place.ring) == (KEY_ID, BOTH)
    assert [one.id for one in place.ring.successors] == [OTHER_ID]
    assert place.kek.unwraps == 2
    # Promoted while the KMS is away.
    place.kek.failure = Transient("k: down")
    await show(place, life.promoted)
    assert state(place.ring) == (OTHER_ID, BOTH)
    assert [one.id for one in place.ring.predecessors] == [KEY_ID]
    assert (place.ring.problem, place.ring.degraded) == (None, None)
    await show(place, life.ended)
    assert state(place.ring) == (OTHER_ID, {OTHER_ID})
    with pytest.raises(NoSuchDataKey):
        await place.ring.get(PREFIX)
    assert place.kek.unwraps == 2


@pytest.mark.parametrize("step", ["announced", "promoted", "ended"])
async def test_a_process_that_starts_in_the_middle(place: Place, life: Life, step: str) -> None:
    await show(place, getattr(life, step))
    current = KEY_ID if step == "announced" else OTHER_ID
    assert state(place.ring) == (current, {OTHER_ID} if step == "ended" else BOTH)
    assert place.kek.unwraps == len(place.records)
    assert place.ring.problem is None


async def test_one_that_has_not_opened_the_successor_opens_it(place: Place, life: Life) -> None:
    await show(place, [life.first], life.promoted)
    assert state(place.ring) == (OTHER_ID, BOTH)
    assert place.kek.unwraps == 2
    assert place.ring.degraded is None


async def test_one_that_stood_still_to_the_end(place: Place, life: Life) -> None:
    await show(place, life.announced, life.ended)
    assert state(place.ring) == (OTHER_ID, {OTHER_ID})


async def test_age_is_that_of_the_current_one(place: Place, life: Life) -> None:
    await show(place, [life.first])
    place.clock.now += 100
    await show(place, life.announced)
    assert place.ring.seconds_left == MAX_AGE - 100
    await show(place, life.promoted)
    assert place.ring.seconds_left == MAX_AGE


async def test_each_is_opened_again_by_itself(place: Place, life: Life) -> None:
    await show(place, life.promoted)
    await place.turn(TTL)
    assert place.kek.unwraps == 4
    place.kek.failure = Transient("k: down")
    await place.turn(TTL)
    assert place.ring.degraded
    await place.turn(MAX_AGE)
    assert state(place.ring) == (None, set())
    assert "k: down" in (place.ring.problem or "")
    place.kek.failure = None
    await place.turn(3)
    assert state(place.ring) == (OTHER_ID, BOTH)


async def test_a_predecessor_that_cant_be_opened_now_is_not_called_tampered(
    place: Place, life: Life
) -> None:
    kek_down = kek_of("k2")
    other = await record_of(kek_down)
    kek_down.failure = Transient("k2: down")
    place.keyring.replace(Keyring(place.kek, [kek_down]))
    await show(place, [replace(life.predecessor, wraps=other.wraps), life.second])
    assert state(place.ring) == (OTHER_ID, {OTHER_ID})
    with pytest.raises(DataKeyUnavailable, match="k2: down"):
        await place.ring.get(PREFIX)
    assert [one.id for one in place.ring.predecessors] == [KEY_ID]
    kek_down.failure = None
    await place.turn(3)
    assert state(place.ring) == (OTHER_ID, BOTH)


async def test_while_the_current_one_is_away_the_others_wait(place: Place, life: Life) -> None:
    place.kek.failure = Transient("k: down")
    await show(place, life.promoted)
    assert state(place.ring) == (None, set())
    for prefix in (PREFIX, OTHER_PREFIX):
        with pytest.raises(DataKeyUnavailable):
            await place.ring.get(prefix)
    assert not place.ring.is_empty
    place.kek.failure = None
    await place.turn(3)
    assert state(place.ring) == (OTHER_ID, BOTH)


# ── whoever writes the records ────────────────────────────────────────────────

Words = Callable[[Life], str]
FALSE_WORDS: dict[str, Words] = {
    "junk": lambda _: f"2.{KEY_ID}.{SECOND.own}.{'0' * 64}",
    "by itself": lambda _: str(SECOND.vouch(OTHER_ID, SECOND.own)),
    "by another": lambda _: str(THIRD.vouch(OTHER_ID, SECOND.own)),
    "by another, as the current one's": lambda _: str(
        THIRD.vouch(OTHER_ID, SECOND.own)._replace(voucher=KEY_ID)
    ),
    "of another id": lambda _: str(FIRST.vouch(THIRD.id, SECOND.own)),
    "of another key": lambda _: str(FIRST.vouch(OTHER_ID, THIRD.own)),
    "its own MAC of another key": lambda _: str(
        FIRST.vouch(OTHER_ID, SECOND.own)._replace(own=THIRD.own)
    ),
    "no hexadecimal": lambda _: f"2.{KEY_ID}.{'ж' * 64}.{'0' * 64}",
    "cut off": lambda life: life.successor.seal[:-1],
}


@pytest.mark.parametrize("how", some(tuple(FALSE_WORDS), "junk", "of another key", "by another"))
async def test_a_successor_by_false_words_is_none(place: Place, life: Life, how: str) -> None:
    await show(place, [life.first])
    await show(place, [life.first, replace(life.successor, seal=FALSE_WORDS[how](life))])
    assert state(place.ring) == (KEY_ID, {KEY_ID})
    assert not place.ring.successors
    with pytest.raises(NoSuchDataKey):
        await place.ring.get(OTHER_PREFIX)
    assert OTHER_ID in (place.ring.degraded or "")
    # Only of the one whose word is good was a KEK asked, and it was another key.
    assert place.kek.unwraps == 1 + (how == "of another key")
    fresh = await _fresh(place)
    assert state(fresh) == (KEY_ID, {KEY_ID})


async def test_one_that_vouches_for_itself_beside_the_current_is_refused(
    place: Place, life: Life
) -> None:
    await show(place, life.announced, [life.first, life.second])
    assert place.ring.is_doubled
    assert state(place.ring) == (KEY_ID, BOTH)  # what is open stays so
    fresh = await _fresh(place)
    assert fresh.is_doubled
    assert state(fresh) == (None, set())


async def test_each_vouches_for_the_other(place: Place, life: Life) -> None:
    await show(place, life.promoted, [life.predecessor, life.successor])
    assert state(place.ring) == (OTHER_ID, BOTH)
    assert place.ring.degraded
    fresh = await _fresh(place)
    assert state(fresh) == (None, set())
    assert "vouches for itself" in (fresh.problem or "")
    with pytest.raises(NoSuchDataKey):
        await fresh.get(PREFIX)


@pytest.mark.parametrize("step", ["announced", "first", "both roots"])
async def test_records_of_before_lead_nowhere_back(place: Place, life: Life, step: str) -> None:
    old = {
        "announced": life.announced,
        "first": [life.first],
        "both roots": [life.first, life.second],
    }[step]
    await show(place, life.promoted, old)
    assert state(place.ring)[0] == OTHER_ID
    await show(place, life.promoted, life.ended, old)
    assert state(place.ring) == (OTHER_ID, {OTHER_ID})
    with pytest.raises(NoSuchDataKey):
        await place.ring.get(PREFIX)
    await place.turn(2 * TTL)
    assert state(place.ring) == (OTHER_ID, {OTHER_ID})


async def test_an_ended_one_that_is_put_back_as_it_was_is_not_taken(
    place: Place, life: Life
) -> None:
    await show(place, life.promoted, life.ended, life.promoted)
    assert state(place.ring) == (OTHER_ID, {OTHER_ID})
    assert KEY_ID in (place.ring.degraded or "")
    with pytest.raises(NoSuchDataKey):
        await place.ring.get(PREFIX)


async def test_whoever_knows_the_ended_one_gives_it_no_word(place: Place, life: Life) -> None:
    """He wraps it, and lets it vouch for what he likes."""
    await show(place, life.promoted, life.ended)
    for forged in ([life.first], [life.first, life.successor], [life.predecessor, life.successor]):
        await show(place, forged)
        await place.turn(10)
        assert state(place.ring) == (OTHER_ID, {OTHER_ID})


async def test_a_record_that_is_touched_evicts_nobody(place: Place, life: Life) -> None:
    await show(place, life.promoted)
    for records in (
        [replace(life.predecessor, seal="ключ"), life.second],
        [replace(life.predecessor, wraps=()), life.second],
        [life.predecessor],
        [life.predecessor, replace(life.second, seal=f"1.{'0' * 64}")],
    ):
        await show(place, records)
        assert state(place.ring) == (OTHER_ID, BOTH)
        assert place.ring.degraded
    place.records = life.promoted
    await place.turn(3)
    assert place.ring.degraded is None


async def test_promotion_needs_the_word_of_the_successor(place: Place, life: Life) -> None:
    """The database alone makes nobody current, while the one before has a record."""
    await show(place, life.announced)
    word = SECOND.vouch(KEY_ID, FIRST.own)._replace(word="0" * 64)
    await show(place, [replace(life.first, seal=str(word)), life.second])
    assert state(place.ring) == (KEY_ID, BOTH)


# ── ids ───────────────────────────────────────────────────────────────────────


def test_a_new_id_comes_after_the_one_before() -> None:
    ahead = "dk-ffffff000000" + "7" + "0" * 19
    made = new_id(ahead)
    assert made > ahead
    assert made_at(made) == made_at(ahead) + 1
    assert new_id() < ahead


async def _fresh(place: Place) -> Ring:
    """Return the ring of a process that starts now."""
    engine: Any = None
    ring = Ring(engine, place.keyring, TTL, MAX_AGE, place.clock)
    await ring.load()
    return ring
