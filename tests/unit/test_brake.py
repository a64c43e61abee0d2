"""The brake: whom it lets pass, whom it remembers, and what an operator hears of it."""

import contextlib
from collections.abc import Iterable

import pytest
from structlog.testing import capture_logs

from custody.ops.alarms import Alarms
from custody.ops.metrics import Metrics
from custody.settings import CanaryAnswer
from custody.vault import brake as subject
from custody.vault.brake import Brake
from custody.vault.canaries import Canaries
from custody.vault.errors import CanaryRefused, UnwrapLimitReached
from tests.clock import Clock

DAY, MINUTE = 86_400, 60


class Braked:
    """A brake with a clock that a test turns, and what it has reported."""

    def __init__(self, limit: int) -> None:
        self.clock = Clock()
        self.newcomers = 0
        self.refusals: list[int] = []
        self.brake = Brake(
            limit, newcomer=self._count, refused=self.refusals.append, clock=self.clock
        )

    def _count(self) -> None:
        self.newcomers += 1

    def passes(self, user: str) -> bool:
        try:
            with self.brake.passing(user):
                return True
        except UnwrapLimitReached:
            return False

    def passed(self, users: Iterable[str]) -> list[str]:
        return [user for user in users if self.passes(user)]


def users(first: int, number: int) -> list[str]:
    return [f"user-{first + one}" for one in range(number)]


def test_zero_is_no_limit_and_no_work() -> None:
    off = Braked(0)
    assert len(off.passed(users(0, 10_000))) == 10_000
    assert (off.newcomers, off.refusals, len(off.brake._seen)) == (0, [], 0)


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_a_sweep_gets_the_limit_and_no_more(limit: int) -> None:
    braked = Braked(limit)
    assert braked.passed(users(0, 10_000)) == users(0, limit)
    assert braked.newcomers == limit
    assert braked.refusals == [limit] * (10_000 - limit)


def test_who_was_seen_passes_while_others_are_refused() -> None:
    braked = Braked(3)
    assert braked.passed(users(0, 5)) == users(0, 3)
    for _ in range(10):
        assert braked.passed(users(0, 3)) == users(0, 3)
        assert not braked.passes("user-4")
    assert braked.newcomers == 3


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_no_minute_has_more_newcomers_than_the_limit(limit: int) -> None:
    braked = Braked(limit)
    passed_at = []
    for number in range(2000):
        if braked.passes(f"user-{number}"):
            passed_at.append(braked.clock.now)
        braked.clock.now += 0.37
    assert all(sum(at <= one < at + MINUTE for one in passed_at) <= limit for at in passed_at)
    # And it gives what it may.
    assert len(passed_at) >= limit * int(2000 * 0.37 / MINUTE)


def test_a_refusal_leaves_nothing() -> None:
    braked = Braked(1)
    braked.passed(users(0, 1000))
    braked.clock.now += MINUTE
    assert braked.passed(users(500, 1000)) == ["user-500"]
    assert len(braked.brake._seen) == 2


def test_what_fails_neither_counts_nor_is_seen() -> None:
    braked = Braked(2)
    for user in users(0, 100):
        with contextlib.suppress(ZeroDivisionError), braked.brake.passing(user):
            raise ZeroDivisionError
    assert (braked.newcomers, braked.refusals) == (0, [])
    assert braked.passed(users(0, 100)) == users(0, 2)


def test_who_is_under_way_holds_a_place_until_the_end() -> None:
    braked = Braked(2)
    with contextlib.ExitStack() as under_way:
        for user in users(0, 2):
            under_way.enter_context(braked.brake.passing(user))
        assert not braked.passes("another")
        assert braked.newcomers == 0
        # For more than a minute, which is when they pass.
        braked.clock.now += 2 * MINUTE
        assert not braked.passes("another")
    assert braked.newcomers == 2
    assert not braked.passes("another")
    braked.clock.now += MINUTE
    assert braked.passes("another")


@pytest.mark.parametrize("ends", [(False, True), (True, False), (True, True), (False, False)])
def test_one_users_requests_at_once_hold_one_place(ends: tuple[bool, bool]) -> None:
    braked = Braked(2)
    both = [braked.brake.passing("alice") for _ in ends]
    for one in both:
        one.__enter__()
    # The other place is free.
    assert braked.passes("bob")
    assert not braked.passes("carol")
    for one, ends_well in zip(both, ends, strict=True):
        error = None if ends_well else ZeroDivisionError()
        with contextlib.suppress(ZeroDivisionError):
            one.__exit__(type(error) if error else None, error, None)
    assert braked.newcomers == 1 + any(ends)
    assert braked.passes("carol") is not any(ends)
    assert not braked.brake._under_way


def test_a_day_is_remembered_from_the_last_time() -> None:
    braked = Braked(1)
    braked.passes("alice")
    for _ in range(5):
        braked.clock.now += DAY - 1
        assert braked.passes("alice")
    braked.passes("another")
    assert braked.newcomers == 2
    braked.clock.now += DAY
    assert braked.passes("third")
    assert not braked.passes("alice")


def test_memory_is_bounded_and_the_longest_unseen_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "MAX_SEEN", 100)
    braked = Braked(1000)
    braked.passed(users(0, 100))
    assert braked.passes("user-0")
    braked.passed(users(100, 50))
    assert len(braked.brake._seen) == 100
    braked.brake.limit = 1
    assert braked.passes("user-0")
    assert not braked.passes("user-1")


def test_another_limit_keeps_the_memory() -> None:
    braked = Braked(10)
    braked.passed(users(0, 10))
    braked.brake.limit = 2
    assert braked.passed(users(0, 100)) == users(0, 10)
    braked.brake.limit = 0
    assert braked.passed(users(50, 20)) == users(50, 20)
    braked.brake.limit = 12
    assert braked.passed(users(0, 100)) == users(0, 12)


def test_the_alarm_rings_once_a_minute_and_counts_all() -> None:
    clock, metrics = Clock(), Metrics()
    alarms = Alarms(metrics, clock)
    brake = Brake(2, newcomer=alarms.newcomer, refused=alarms.unwrap_refused, clock=clock)
    with capture_logs() as logged:
        for second in range(121):
            clock.now = 1000.0 + second
            for user in users(10 * second, 10):
                with contextlib.suppress(UnwrapLimitReached), brake.passing(user):
                    pass
    assert logged == [
        {"event": "unwrap_limit_reached", "log_level": "error", "limit": 2, "refused": refused}
        for refused in (1, 598, 598)
    ]
    shown = metrics.render({}).decode()
    assert "custody_unwrap_newcomers_total 6.0" in shown
    assert "custody_unwrap_refusals_total 1204.0" in shown


def test_metrics_are_there_before_the_first_alarm() -> None:
    """Else a query for an increase misses the first one."""
    shown = Metrics().render({}).decode()
    for name in ("unwrap_newcomers", "unwrap_refusals", "canary_requests"):
        assert f"custody_{name}_total 0.0" in shown


def test_canaries_are_refused_served_and_replaced() -> None:
    canaries = Canaries(("eve", "mallory"), CanaryAnswer.REFUSE)
    canaries.refuse("alice")
    for user in ("eve", "mallory"):
        with pytest.raises(CanaryRefused):
            canaries.refuse(user)
    canaries.follow(("mallory",), CanaryAnswer.REFUSE)
    canaries.refuse("eve")
    with pytest.raises(CanaryRefused):
        canaries.refuse("mallory")
    canaries.follow(("mallory",), CanaryAnswer.SERVE)
    canaries.refuse("mallory")
    assert canaries.users == {"mallory"}


def test_a_client_cant_tell_a_canary_from_the_brake() -> None:
    brake, canary = UnwrapLimitReached(), CanaryRefused()
    assert (brake.status, brake.code, brake.__doc__) == (
        canary.status,
        canary.code,
        canary.__doc__,
    )
