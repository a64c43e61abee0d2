"""What a verification says of rows behind the last checkpoint, and of what it could not judge."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from custody.audit.findings import Kind
from custody.audit.verify import Verification

OF_THESE = "from before there were seals, refusals while no data key was open, erasures"
BY_THE_TREE = "the checkpoints alone say that they are as they were"
NO_TAIL: dict[str, Any] = {"count": 0}


class OfNobody:
    """A log of which nothing is read."""

    async def keys(self, _ring: object) -> None: ...

    async def take(self, _last: int, _limit: int) -> AsyncIterator[list[Any]]:
        for page in ([], [{"number": 8}]):
            yield page


class Counting:
    """A walk that is told of rows.

    Args:
        without_seal, judged_by_tree: as it has counted them.
    """

    def __init__(self, without_seal: int = 0, judged_by_tree: int = 0) -> None:
        self.without_seal, self.judged_by_tree = without_seal, judged_by_tree
        self.rows: list[Any] = []
        self.keys: object = None
        self.has_ended = False

    def add(self, rows: list[Any]) -> None:
        self.rows += rows

    def end(self) -> None:
        self.has_ended = True


async def ended(walk: Counting, tail: dict[str, Any], *, at_rest: bool = False) -> Verification:
    """Judge what is behind the last checkpoint."""
    log: Any = OfNobody()
    any_walk: Any = walk
    advanced: list[int] = []
    nothing: Any = None
    verification = Verification(
        log, nothing, lambda _rows, _report: 0, advance=advanced.append, at_rest=at_rest
    )
    await verification._end(any_walk, log, tail)
    assert walk.has_ended
    assert sum(advanced) == len(walk.rows)
    return verification


def tail(*, is_old: bool, spans_long: bool) -> dict[str, Any]:
    return {"count": 2, "first": 7, "last": 8, "is_old": is_old, "spans_long": spans_long}


@pytest.mark.parametrize(
    ("at_rest", "says"),
    [(False, "they are new"), (True, "the last before this copy, or new")],
)
async def test_rows_that_are_new(at_rest: bool, says: str) -> None:
    walk = Counting()
    new = tail(is_old=at_rest, spans_long=not at_rest)
    report = (await ended(walk, new, at_rest=at_rest)).report
    assert report.notices == [f"2 rows are not under a checkpoint yet: {says}"]
    assert report.findings == []
    assert walk.rows == [{"number": 8}]


@pytest.mark.parametrize("at_rest", [False, True])
async def test_rows_that_have_been_there_for_long(at_rest: bool) -> None:
    old = tail(is_old=not at_rest, spans_long=at_rest)
    report = (await ended(Counting(), old, at_rest=at_rest)).report
    (finding,) = report.findings
    assert (finding.kind, finding.rows) == (Kind.TAIL, (7, 8))
    assert finding.message.startswith("2 rows are under no checkpoint, and some have been there")
    assert report.notices == []


async def test_rows_that_no_seal_speaks_for() -> None:
    report = (await ended(Counting(without_seal=3, judged_by_tree=4), NO_TAIL)).report
    assert report.notices == [
        f"3 rows have no seal: {OF_THESE}",
        f"4 rows have a seal by a data key that was ended: {BY_THE_TREE}",
    ]


async def test_nothing_to_say() -> None:
    walk = Counting()
    report = (await ended(walk, NO_TAIL)).report
    assert (report.notices, report.findings, walk.rows) == ([], [], [])
