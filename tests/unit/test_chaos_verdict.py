"""What counts as an attack that was held, and what does not."""

from dataclasses import replace

import pytest

from tests.bench.chaos.honest import Asked, Seen, seen
from tests.bench.chaos.table import show
from tests.bench.chaos.verdict import Row, failures, is_calm, is_closed
from tests.bench.chaos.watch import Open

CALM = Seen(1000, {}, 2.0, 5.0)
OPEN = Open(9, 40, 90.0)
HELD = Row(
    attack="slow headers",
    wanted=500,
    sent={"connections": 1000},
    before=CALM,
    meanwhile=replace(CALM, p99=15.0),
    after=CALM,
    worst={"livez": 0.1, "readyz": 0.9},
    probe_errors={},
    open_before=OPEN,
    open_most=Open(900, 40, 95.0),
    open_after=OPEN,
    back=1.5,
    cpu={"daemon": 40.0, "rest": 3.0},
)
BROKEN = {
    "the daemon ended": replace(HELD, ended=True),
    "no figure counts": replace(HELD, before=Seen(0, {}, 0.0, 0.0)),
    "did not take place": replace(HELD, sent={"connections": 499}),
    "honest users saw errors": replace(HELD, meanwhile=Seen(1000, {"503": 1}, 2.0, 5.0)),
    "users saw errors": replace(HELD, after=Seen(1000, {"no answer": 1}, 2.0, 5.0)),
    "p99 is 3.0 times": replace(HELD, meanwhile=replace(CALM, p99=15.1)),
    "/readyz took 1.1 s": replace(HELD, worst={"livez": 0.1, "readyz": 1.1}),
    "/readyz failed: 503": replace(HELD, probe_errors={"readyz": "503"}),
    "not back to normal": replace(HELD, back=None),
}


def test_an_attack_that_nobody_noticed_is_held() -> None:
    assert failures(HELD) == []
    assert "held" in show([HELD], {})


@pytest.mark.parametrize("said", BROKEN)
def test_each_bound_is_held_by_itself(said: str) -> None:
    (failure,) = failures(BROKEN[said])
    assert said in failure
    text = show([BROKEN[said]], {})
    assert "FAILED" in text
    assert "  held" not in text


def test_who_saw_nothing_is_no_witness() -> None:
    assert "no honest user asked" in failures(replace(HELD, meanwhile=Seen(0, {}, 0.0, 0.0)))
    assert not is_calm(Seen(0, {}, 0.0, 0.0), CALM)
    assert len(failures(replace(HELD, worst={}))) == 2


def test_what_an_attack_left_open_is_seen() -> None:
    assert is_closed(Open(10, 58, 95.0), OPEN)
    assert not is_closed(Open(29, 40, 95.0), OPEN)
    assert not is_closed(Open(9, 100, 95.0), OPEN)


def test_requests_that_were_given_up_count_among_the_times() -> None:
    asked = [Asked(float(n), 0.002, None) for n in range(98)]
    asked += [Asked(98.0, 5.0, "no answer"), Asked(99.0, 5.0, "503")]
    assert seen(asked) == Seen(100, {"503": 1, "no answer": 1}, 2.0, 5000.0)
