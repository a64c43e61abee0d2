"""A data key is opened once, again a little ahead of its TTL, and dropped at its hard age."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from custody.datakeys import ring as ring_module
from custody.datakeys.errors import DataKeyUnavailable, NoSuchDataKey
from custody.datakeys.records import Record
from custody.datakeys.ring import Ring
from custody.db.errors import DatabaseError
from kek_backends.base import Binding, KekBackend, Wrap
from kek_backends.errors import Denied, KekError, Tampered, Transient
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri
from tests.clock import Clock
from tests.datakeys import KEY_ID, record_of
from tests.eventually import eventually
from tests.failing_kek import FailingKek

TTL, MAX_AGE = 3600.0, 86_400.0
PREFIX = f"1.{KEY_ID}."
OTHER_ID = KEY_ID[:-1] + "2"
OTHER = bytes(32)


class CountedKek(FailingKek):
    """A KEK that counts what it unwraps, and waits for a gate where there is one."""

    unwraps = 0
    gate: asyncio.Event | None = None

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        self.unwraps += 1
        if self.gate is not None:
            await self.gate.wait()
        return await super()._unwrap(binding, wrap)


def kek_of(kek_id: str = "k1", *, in_process: bool = False) -> CountedKek:
    uri = KekUri.parse(f"env:{kek_id.upper()}")
    made = CountedKek(uri=uri, kek_id=kek_id, key=kek_id.encode() * 16, development=False)
    made.in_process = in_process
    return made


@dataclass
class Place:
    """A ring, its clock, its KEK, and the records that the database would have."""

    kek: CountedKek = field(default_factory=kek_of)
    old: tuple[KekBackend, ...] = ()
    records: list[Record] = field(default_factory=list)
    down: DatabaseError | None = None
    reads: int = 0

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.keyring = Keyring(self.kek, self.old)
        engine: Any = None
        self.ring = Ring(engine, self.keyring, TTL, MAX_AGE, self.clock)

    async def read(self, _engine: object) -> tuple[Record, ...]:
        self.reads += 1
        if self.down is not None:
            raise self.down
        return tuple(self.records)

    async def turn(self, seconds: float) -> None:
        """Let time pass, and what comes of it be done."""
        self.clock.now += seconds
        self.ring.tend()
        await eventually(lambda: self.ring._loading is None)

    @property
    def is_open(self) -> bool:
        return self.ring.find(PREFIX) is not None


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place()
    monkeypatch.setattr(ring_module, "read_records", made.read)
    made.records = [await record_of(made.kek)]
    return made


@pytest.fixture
async def opened(place: Place) -> Place:
    await place.ring.load()
    assert place.kek.unwraps == 1
    return place


# ── opened once ───────────────────────────────────────────────────────────────


async def test_3000_cold_logins_open_it_once(place: Place) -> None:
    place.kek.gate = asyncio.Event()
    logins = [asyncio.create_task(place.ring.get(PREFIX)) for _ in range(2000)]
    await eventually(lambda: place.kek.unwraps == 1)
    # Those that come while the KMS is at it find the record known, and the key not open yet.
    logins += [asyncio.create_task(place.ring.get(PREFIX)) for _ in range(1000)]
    logins[7].cancel()
    await asyncio.sleep(0)
    place.kek.gate.set()
    keys = await asyncio.gather(*logins, return_exceptions=True)
    assert isinstance(keys.pop(7), asyncio.CancelledError)
    assert {id(key) for key in keys} == {id(place.ring.current)}
    assert (place.kek.unwraps, place.reads) == (1, 1)
    for _ in range(1000):
        assert place.ring.find(PREFIX) is place.ring.current
    await place.ring.load()
    assert place.kek.unwraps == 1


async def test_it_is_opened_again_ahead_of_its_ttl(opened: Place) -> None:
    due = [_due_in(opened) for _ in range(300)]
    assert 0.72 * TTL <= min(due) < 0.74 * TTL
    assert 0.86 * TTL < max(due) <= 0.88 * TTL
    await opened.turn(0.71 * TTL)
    assert opened.kek.unwraps == 1
    await opened.turn(0.18 * TTL)
    assert opened.kek.unwraps == 2
    assert opened.ring.seconds_left == MAX_AGE
    assert (opened.ring.problem, opened.ring.degraded) == (None, None)


def _due_in(place: Place) -> float:
    """Have the data key opened again; return in how many seconds that is due once more."""
    held = place.ring._open.get(KEY_ID)
    assert held is not None
    place.ring._open.hold(held.record, held.opened)
    again = place.ring._open.get(KEY_ID)
    assert again is not None
    return again.due_at - place.clock.now


async def test_the_active_kek_opens_it_then_one_in_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    active, far, near = kek_of("k1"), kek_of("k2"), kek_of("k3", in_process=True)
    place = Place(active, (far, near))
    monkeypatch.setattr(ring_module, "read_records", place.read)
    place.records = [await record_of(far, near, active)]
    await place.ring.load()
    assert (active.unwraps, far.unwraps, near.unwraps) == (1, 0, 0)
    place.records = [await record_of(far, near)]
    place.ring.follow()
    await place.turn(0)
    assert (active.unwraps, far.unwraps, near.unwraps) == (1, 0, 1)


# ── coasting ──────────────────────────────────────────────────────────────────


async def test_each_change_is_logged_once(opened: Place) -> None:
    with capture_logs() as logged:
        opened.kek.failure = Transient("k: down")
        await opened.turn(TTL)
        for _ in range(3):
            await opened.turn(MAX_AGE / 5)
        opened.kek.failure = None
        await opened.turn(3)
        await opened.turn(TTL)
    assert opened.ring.degraded is None
    events = [one["event"] for one in logged if one["event"].startswith("data_key_")]
    assert events == ["data_key_coasting", "data_key_half_gone", "data_key_available"]


async def test_other_keks_open_it_again_at_once(opened: Place) -> None:
    """After a reload the same records may open under others, or under none."""
    opened.ring.follow()
    await opened.turn(0)
    assert opened.kek.unwraps == 2


@pytest.mark.parametrize("failure", [Transient("k: down"), Denied("k: no"), DatabaseError("gone")])
async def test_coasting_to_the_hard_age(opened: Place, failure: Exception) -> None:
    def fail(error: Exception | None) -> None:
        opened.kek.failure = error if isinstance(error, KekError) else None
        opened.down = error if isinstance(error, DatabaseError) else None

    fail(failure)
    await opened.turn(TTL)
    assert opened.is_open
    assert opened.ring.problem is None
    assert str(failure) in (opened.ring.degraded or "")
    tries = opened.kek.unwraps + opened.reads
    await opened.turn(1.4)
    assert opened.kek.unwraps + opened.reads == tries
    await opened.turn(1.2)
    assert opened.kek.unwraps + opened.reads > tries
    await opened.turn(MAX_AGE - TTL - 3)
    assert opened.is_open
    assert 0 < opened.ring.seconds_left < 1
    await opened.turn(2)
    assert not opened.is_open
    assert (opened.ring.current, opened.ring.seconds_left) == (None, 0)
    assert str(failure) in (opened.ring.problem or "")
    assert opened.ring.degraded is None
    # No request waits for a KMS that is down, nor asks it.
    tries = opened.kek.unwraps + opened.reads
    for _ in range(100):
        with pytest.raises(DataKeyUnavailable, match=str(failure)):
            await opened.ring.get(PREFIX)
    assert opened.kek.unwraps + opened.reads == tries
    fail(None)
    await opened.turn(3)
    assert opened.is_open
    assert (opened.ring.problem, opened.ring.degraded) == (None, None)


async def test_back_while_coasting(opened: Place) -> None:
    opened.kek.failure = Transient("k: down")
    await opened.turn(TTL)
    assert opened.ring.degraded
    opened.kek.failure = None
    await opened.turn(3)
    assert opened.ring.degraded is None
    assert opened.ring.seconds_left == MAX_AGE


async def test_a_kek_that_hangs_keeps_no_old_key(opened: Place) -> None:
    opened.kek.gate = asyncio.Event()
    opened.clock.now += TTL
    opened.ring.tend()
    await eventually(lambda: opened.kek.unwraps == 2)
    opened.clock.now += MAX_AGE
    opened.ring.tend()
    assert not opened.is_open
    opened.kek.gate.set()
    await eventually(lambda: opened.is_open)


async def test_a_kek_that_is_down_at_first(place: Place) -> None:
    place.kek.failure = Transient("k: down")
    with capture_logs() as logged:
        await place.ring.load()
        assert [one["event"] for one in logged] == ["data_key_unavailable"]
        assert "k: down" in (place.ring.problem or "")
        assert place.ring.seconds_left == 0
        tries = place.kek.unwraps
        for _ in range(20):  # the looks of the daemon in between
            await place.ring.load()
        assert place.kek.unwraps == tries
        await place.turn(3)
        assert place.kek.unwraps == tries + 1
    assert len(logged) == 1
    place.kek.failure = None
    await place.turn(3)
    assert place.is_open


async def test_a_database_that_is_down_at_first(place: Place) -> None:
    place.down = DatabaseError("gone")
    with pytest.raises(DataKeyUnavailable, match="gone"):
        await place.ring.get(PREFIX)
    reads = place.reads
    with pytest.raises(DataKeyUnavailable, match="gone"):
        await place.ring.get(PREFIX)
    assert place.reads == reads
    assert place.ring.problem == "gone"
    assert not place.ring.is_empty
    place.down = None
    await place.turn(3)
    assert place.is_open


# ── records that somebody has touched ─────────────────────────────────────────

Change = Callable[[Record], Record]


def other_wrap(**changes: Any) -> Change:
    return lambda record: replace(record, wraps=(record.wraps[0]._replace(**changes),))


TOUCHED: dict[str, Change] = {
    "wrap": other_wrap(wrapped_mk="AAAA" * 16),
    "nonce": other_wrap(wrap_iv="AAAA" * 8),
    "no-base64": other_wrap(wrapped_mk="ключ"),
    "format": other_wrap(format_version=4),
    "seal": lambda record: replace(record, seal="1." + "0" * 64),
    "seal-of-anything": lambda record: replace(record, seal="ключ"),
    "no-wrap": lambda record: replace(record, wraps=()),
}


@pytest.mark.parametrize("how", TOUCHED)
async def test_touched_record_evicts_nobody(opened: Place, how: str) -> None:
    good = opened.records[0]
    opened.records = [TOUCHED[how](good)]
    await opened.ring.load()
    assert opened.is_open
    assert opened.ring.degraded
    assert opened.ring.problem is None
    tries = opened.kek.unwraps
    for _ in range(5):
        await opened.turn(10)
    assert opened.kek.unwraps == tries  # the same bytes are not asked twice
    opened.records = [good]
    await opened.turn(3)
    assert opened.ring.degraded is None


async def test_a_kms_that_is_wrong_for_a_moment(opened: Place) -> None:
    """What opened before is asked for again: a replica that was restored wrongly is mended."""
    opened.kek.failure = Tampered("message authentication failed")
    await opened.turn(TTL)
    assert opened.ring.degraded
    opened.kek.failure = None
    await opened.turn(3)
    now = opened.ring.degraded, opened.ring.seconds_left
    assert repr(now) == repr((None, MAX_AGE))
    # And when it has been wrong until the key was too old.
    opened.kek.failure = Tampered("message authentication failed")
    await opened.turn(TTL)
    await opened.turn(MAX_AGE)
    await opened.turn(3)
    assert not opened.is_open
    opened.kek.failure = None
    await opened.turn(3)
    assert opened.is_open


@pytest.mark.parametrize("how", TOUCHED)
async def test_touched_record_is_none_for_a_new_process(place: Place, how: str) -> None:
    good = place.records[0]
    place.records = [TOUCHED[how](good)]
    for _ in range(3):
        await place.turn(10)
        await place.ring.load()
        with pytest.raises(NoSuchDataKey):
            await place.ring.get(PREFIX)
    assert place.kek.unwraps <= 1
    assert place.ring.is_empty
    assert place.ring.bad == tuple(place.records)
    place.records = [good]
    await place.ring.load()
    assert place.is_open


async def test_record_that_is_gone(opened: Place) -> None:
    good, opened.records = opened.records, []
    await opened.ring.load()
    assert opened.is_open
    assert "restore auth.encryption_data_keys" in (opened.ring.degraded or "")
    assert not opened.ring.is_empty
    await opened.turn(MAX_AGE + 1)
    assert not opened.is_open
    await opened.ring.load()
    assert opened.ring.is_empty
    opened.records = good
    await opened.ring.load()
    assert opened.is_open


async def test_another_key_under_the_same_id_is_not_taken(opened: Place) -> None:
    """Who may encrypt under the KEK can make such a record; nobody's seals are judged by it."""
    ours = opened.ring.find(PREFIX)
    opened.records = [await record_of(opened.kek, key=OTHER)]
    for _ in range(2):
        await opened.turn(TTL)
    assert opened.ring.find(PREFIX) is ours
    assert "another key" in (opened.ring.degraded or "")


async def test_lost_key_is_never_asked_for(place: Place) -> None:
    place.records = [replace(place.records[0], is_lost=True)]
    await place.ring.load()
    await place.turn(10)
    with pytest.raises(DataKeyUnavailable, match="is lost"):
        await place.ring.get(PREFIX)
    assert place.kek.unwraps == 0
    assert place.ring.is_empty


async def test_mark_of_loss_evicts_nobody(opened: Place) -> None:
    opened.records = [replace(opened.records[0], is_lost=True)]
    await opened.turn(TTL)
    assert opened.is_open
    assert "lost" in (opened.ring.degraded or "")


async def test_junk_beside_a_good_record(opened: Place) -> None:
    junk = replace(opened.records[0], id=OTHER_ID)
    opened.records.append(junk)
    for _ in range(3):
        await opened.ring.load()
    assert opened.kek.unwraps == 2
    assert opened.ring.current is opened.ring.find(PREFIX)
    assert OTHER_ID in (opened.ring.degraded or "")
    with pytest.raises(NoSuchDataKey):
        await opened.ring.get(f"1.{OTHER_ID}.")


async def test_second_root_is_not_used(opened: Place) -> None:
    opened.records.append(await record_of(opened.kek, key=OTHER, key_id=OTHER_ID))
    for _ in range(3):
        await opened.ring.load()
    assert opened.kek.unwraps == 2
    assert opened.ring.find(f"1.{OTHER_ID}.") is None
    assert opened.ring.current is opened.ring.find(PREFIX)
    assert opened.ring.is_doubled
    assert f"({KEY_ID}, {OTHER_ID})" in (opened.ring.problem or "")
    opened.records.pop()
    await opened.ring.load()
    assert opened.ring.problem is None


async def test_of_two_roots_at_once_none_is_used(place: Place) -> None:
    place.records.append(await record_of(place.kek, key=OTHER, key_id=OTHER_ID))
    for _ in range(3):
        await place.ring.load()
    assert place.kek.unwraps == 2
    assert place.ring.current is None
    assert place.ring.is_doubled
    assert not place.ring.is_empty
    with pytest.raises(DataKeyUnavailable, match="more than one"):
        await place.ring.get(PREFIX)
    place.records.pop()
    await place.ring.load()
    assert place.is_open


# ── what there is not ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "prefix", ["", "1.", PREFIX[:-1], PREFIX.upper(), "2" + PREFIX[1:], "ключ"]
)
async def test_no_seal(opened: Place, prefix: str) -> None:
    opened.clock.now += 60
    with pytest.raises(NoSuchDataKey):
        await opened.ring.get(prefix)
    assert opened.reads == 1


async def test_unknown_ids_are_looked_for_now_and_then(opened: Place) -> None:
    for second in range(12):
        for number in range(50):
            with pytest.raises(NoSuchDataKey):
                await opened.ring.get(f"1.dk-{number:032x}.")
        assert opened.reads == 1 + second // 5
        opened.clock.now += 1


async def test_key_that_another_process_has_made(place: Place) -> None:
    """It is read when the first row names it."""
    made, place.records = place.records, []
    await place.ring.load()
    place.records = made
    place.clock.now += 6
    assert (await place.ring.get(PREFIX)).id == KEY_ID


async def test_kek_that_is_not_configured(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    away = kek_of("k2")
    place.records = [await record_of(away)]
    await place.ring.load()
    assert not place.ring.is_empty
    problem = place.ring.problem or ""
    assert "list the KEK of k2 in CUSTODY_OLD_KEKS" in problem
    assert f"custody kek forget {KEY_ID}" in problem
    place.keyring.replace(Keyring(place.kek, [away]))
    place.ring.follow()
    await eventually(lambda: place.is_open)
    assert place.ring.problem is None


async def test_wraps_of_which_one_opens(place: Place) -> None:
    """Junk under the active KEK, and one that nobody has, keep no good wrap from opening it."""
    old = kek_of("k2")
    place.keyring.replace(Keyring(place.kek, [old]))
    (junk,) = TOUCHED["wrap"](place.records[0]).wraps
    good = (await record_of(old)).wraps
    nobodys = (await record_of(kek_of("k3"))).wraps
    place.records = [replace(place.records[0], wraps=(*nobodys, junk, *good))]
    await place.ring.load()
    assert place.is_open
    # Without the good one it may still be ours, under the KEK that is not configured.
    other = Place(place.kek)
    place.records = [replace(place.records[0], wraps=(*nobodys, junk))]
    other.ring._engine = place.ring._engine
    await other.ring.load()
    assert "k3" in (other.ring.problem or "")
    assert not other.ring.is_empty


async def test_the_end_leaves_nothing_behind(
    opened: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring_module, "_LOOK_SECONDS", 0.001)
    opened.kek.gate = asyncio.Event()
    before = asyncio.all_tasks()
    async with opened.ring.kept():
        opened.clock.now += TTL
        await eventually(lambda: opened.kek.unwraps == 2)
    assert asyncio.all_tasks() == before


async def test_other_errors_of_a_kek(place: Place) -> None:
    """What a backend of others raises is a KEK that is down; Tampered says that it is not ours."""
    place.kek.failure = Tampered("k: no")
    await place.ring.load()
    assert place.ring.is_empty
