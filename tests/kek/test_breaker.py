"""The circuit breaker, under a clock that the test sets."""

import pytest

from kek_backends import breaker
from kek_backends.breaker import FAILURES, OPEN_SECONDS, Breaker
from tests.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(breaker, "time", clock)
    return clock


def failing(times: int) -> Breaker:
    made = Breaker()
    for _ in range(times):
        made.failed()
    return made


def test_a_new_one_admits_everything(clock: Clock) -> None:
    made = Breaker()
    assert sum(made.admits() for _ in range(100)) == 100


def test_opens_at_the_last_of_five_failures_in_a_row(clock: Clock) -> None:
    assert FAILURES == 5
    assert failing(4).admits()
    assert not failing(5).admits()


def test_a_success_between_starts_the_count_again(clock: Clock) -> None:
    made = failing(4)
    made.succeeded()
    for _ in range(4):
        made.failed()
    assert made.admits()
    made.failed()
    assert not made.admits()


def test_half_open_admits_one_call_a_second(clock: Clock) -> None:
    assert OPEN_SECONDS == 1.0
    made = failing(FAILURES)
    admitted = []
    for _ in range(40):
        clock.now += 0.125
        admitted.append(sum(made.admits() for _ in range(20)))
    assert admitted == [0, 0, 0, 0, 0, 0, 0, 1] * 5


def test_its_failure_keeps_it_open_for_another_second(clock: Clock) -> None:
    made = failing(FAILURES)
    clock.now += 1.0
    assert made.admits()
    clock.now += 0.7
    made.failed()
    clock.now += 0.9
    assert not made.admits()
    clock.now += 0.2
    assert made.admits()


def test_its_success_closes_it(clock: Clock) -> None:
    made = failing(FAILURES + 3)
    clock.now += 1.0
    assert made.admits()
    made.succeeded()
    assert sum(made.admits() for _ in range(100)) == 100


def test_a_success_of_an_earlier_call_closes_it_too(clock: Clock) -> None:
    made = failing(FAILURES)
    made.succeeded()
    assert made.admits()
