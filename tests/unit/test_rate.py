"""The limit on each user's requests."""

import itertools

import pytest

from custody.http.rate import RateLimit
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(limit: RateLimit, user: str, tries: int) -> int:
    return sum(limit.seconds_to_wait(user) == 0 for _ in range(tries))


def test_zero_is_no_limit(clock: Clock) -> None:
    assert taken(RateLimit(0, clock), "alice", 10_000) == 10_000


@pytest.mark.parametrize("rate", [1, 2, 3, 5, 7, 10, 100, 999, 1000])
def test_burst_of_one_second(clock: Clock, rate: int) -> None:
    limit = RateLimit(rate, clock)
    assert taken(limit, "alice", 3 * rate) == rate
    clock.now += 0.5 / rate
    assert taken(limit, "alice", 10) == 0
    clock.now += 0.5001 / rate
    assert taken(limit, "alice", 10) == 1
    clock.now += 1000
    assert taken(limit, "alice", 3 * rate) == rate


@pytest.mark.parametrize("rate", [1, 3, 10, 100])
def test_steady_rate_is_taken_for_ever(clock: Clock, rate: int) -> None:
    limit = RateLimit(rate, clock)
    for _ in range(20 * rate):
        assert limit.seconds_to_wait("alice") == 0
        clock.now += 1 / rate


@pytest.mark.parametrize("rate", [1, 3, 10])
def test_never_more_than_the_rate(clock: Clock, rate: int) -> None:
    limit = RateLimit(rate, clock)
    granted = 0
    for _ in range(1000):
        granted += limit.seconds_to_wait("alice") == 0
        clock.now += 0.01
    assert granted <= 10 * rate + rate
    assert granted >= 10 * rate


@pytest.mark.parametrize("rate", [1, 2, 3, 10, 1000])
def test_after_the_wait_it_is_taken(clock: Clock, rate: int) -> None:
    limit = RateLimit(rate, clock)
    taken(limit, "alice", rate)
    wait = limit.seconds_to_wait("alice")
    assert isinstance(wait, int)
    assert wait >= 1
    clock.now += wait
    assert limit.seconds_to_wait("alice") == 0


def test_a_refusal_costs_nothing(clock: Clock) -> None:
    limit = RateLimit(1, clock)
    assert taken(limit, "alice", 1000) == 1
    clock.now += 1
    assert taken(limit, "alice", 1000) == 1


def test_users_do_not_share(clock: Clock) -> None:
    limit = RateLimit(2, clock)
    assert taken(limit, "alice", 10) == 2
    assert taken(limit, "bob", 10) == 2
    assert taken(limit, "Alice", 10) == 2


def test_memory_follows_the_users_of_this_second(clock: Clock) -> None:
    limit = RateLimit(10, clock)
    for number in itertools.count():
        limit.seconds_to_wait(f"user-{number}")
        clock.now += 0.001
        if number > 20_000:
            break
    assert len(limit._full_at) < 3000


def test_the_sweep_forgives_nobody(clock: Clock) -> None:
    limit = RateLimit(5, clock)
    assert taken(limit, "alice", 5) == 5
    for number in range(5000):
        limit.seconds_to_wait(f"user-{number}")
    assert limit.seconds_to_wait("alice") > 0
