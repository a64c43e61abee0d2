"""What a walk through the audit says of a row, and of rows that are not those that were sealed."""

import time
from hashlib import sha256
from typing import Any, cast
from uuid import RFC_4122, UUID

import pytest

from custody.audit.checkpoint import Checkpoint
from custody.audit.events import event_id
from custody.audit.findings import Finding, Kind, Report
from custody.audit.kept import KeptRows
from custody.audit.keys import Keys, Word
from custody.audit.merkle import Tree
from custody.audit.pruned import Counted
from custody.audit.walk import Walk

LEAVES = [sha256(bytes([number])).digest() for number in range(4)]


def tree_of(*numbers: int) -> Tree:
    return Tree().extended(b"".join(LEAVES[number] for number in numbers))


class NoSealHolds:
    def judge(self, _row: Any) -> bool | None:
        return False


class OneCheckpoint:
    """Data keys of which one has signed a checkpoint."""

    def __init__(self, tree: Tree) -> None:
        self.said = Checkpoint("log", tree.size, tree.root, tree.size)

    def read(self, _note: str) -> tuple[Checkpoint | None, Word]:
        return self.said, Word.OURS


def test_a_row_that_was_forged_is_named() -> None:
    report = Report()
    walk = Walk(NoSealHolds(), cast("Keys", None), report)
    walk.judge([{"number": 7, "id": "id-7", "user_id": "alice", "seal": "s"}])
    message = "was edited or forged: its own seal does not hold"
    assert report.findings == [
        Finding(Kind.ROW, message, (7, 7), None, row_id="id-7", user_id="alice")
    ]
    assert report.rows == 1


CASES = {
    (0, 1): None,
    (0,): (Kind.MISSING, "1 rows are missing"),
    (0, 1, 2): (Kind.ADDED, "1 rows more than were sealed: some were put in"),
    (1, 0): (
        Kind.CHANGED,
        "not the rows that were sealed: some were edited, moved or replaced",
    ),
}


@pytest.mark.parametrize("there", CASES)
def test_rows_held_against_a_checkpoint(there: tuple[int, ...]) -> None:
    sealed, report = tree_of(0, 1), Report()
    walk = Walk(NoSealHolds(), cast("Keys", OneCheckpoint(sealed)), report)
    walk._tree = tree_of(*there)
    walk.close({"number": 1, "note": "n", "size": 2, "last_row": 2, "hashes": sealed.hashes})
    found = [(one.kind, one.message, one.rows, one.checkpoint) for one in report.findings]
    said = CASES[there]
    assert found == ([] if said is None else [(*said, (1, 2), 1)])
    assert report.size == (2 if said is None else 0)
    assert walk.last_row == 2


KEPT = {
    (0, 1): None,
    (0,): (Kind.MISSING, "1 of the rows that the last prune kept are gone"),
    (0, 1, 2): (Kind.ADDED, "1 rows more than the last prune has kept"),
    (1, 0): (
        Kind.CHANGED,
        "not the rows that the last prune has kept: some were edited, moved or replaced",
    ),
}


class Said:
    """What a prune says: two rows kept up to number 9, and no others up to 12."""

    kept = Counted(2, tree_of(0, 1).root)
    whole = Counted(0, Tree().root)
    up_to, last_row = 9, 12


class Left:
    said = Said()
    passed = Tree()


@pytest.mark.parametrize("there", KEPT)
def test_rows_that_a_prune_has_kept(there: tuple[int, ...]) -> None:
    rows = KeptRows(cast("Any", Left()))
    rows.kept = tree_of(*there)
    said = KEPT[there]
    expected = [] if said is None else [Finding(*said, (1, 9))]
    assert list(rows.findings()) == expected


def test_an_event_has_an_id_of_its_time() -> None:
    before = time.time_ns() // 1_000_000
    ids = [UUID(event_id()) for _ in range(200)]
    after = time.time_ns() // 1_000_000
    assert len(set(ids)) == 200
    for one in ids:
        assert (one.version, one.variant) == (7, RFC_4122)
        assert before <= one.int >> 80 <= after


def test_checkpoints_that_nobody_here_can_judge_are_named_from_the_first() -> None:
    """Where a walk begins behind one of them, that is the first."""
    sealed, report = tree_of(0, 1), Report()
    keys: Any = OneCheckpoint(sealed)
    keys.read = lambda _note: (keys.said, Word.UNKNOWN)
    walk = Walk(NoSealHolds(), keys, report)
    stored = {"note": "n", "size": 2, "last_row": 2, "hashes": sealed.hashes}
    assert walk.begin_behind({"number": 5, **stored})
    assert (walk.number, walk.last_row, report.size) == (5, 2, 2)
    walk.end()
    assert "checkpoints 5 to 5 are signed by a key" in report.unseen[0]


OURS = tree_of(0, 1)
STORED = {"number": 1, "note": "n", "size": 2, "last_row": 2, "hashes": OURS.hashes}
NOT_OURS = (
    "was edited, or is not ours: its note is none, its signature does not hold, or it is by no "
    "data key of ours"
)
EDITED = "was edited: size, last row or hashes are not what its note says"
# What is wrong with the first checkpoint: its row, what its note says, and what is found.
CHECKPOINTS: dict[str, tuple[dict[str, Any], Checkpoint | None, Word, list[tuple[Kind, str]]]] = {
    "nothing": ({}, Checkpoint("log", 2, OURS.root, 2), Word.OURS, []),
    "no note": ({}, None, Word.NOBODY, [(Kind.CHECKPOINT, NOT_OURS)]),
    "a stranger's": (
        {},
        Checkpoint("log", 2, OURS.root, 2),
        Word.NOBODY,
        [(Kind.CHECKPOINT, NOT_OURS)],
    ),
    "edited": (
        {"size": 3},
        Checkpoint("log", 2, OURS.root, 2),
        Word.OURS,
        [(Kind.CHECKPOINT, EDITED)],
    ),
    "its number": (
        {"number": 2},
        Checkpoint("log", 2, OURS.root, 2),
        Word.OURS,
        [(Kind.GAP, "stands where 1 should be: some are missing")],
    ),
}


@pytest.mark.parametrize("wrong", CHECKPOINTS)
def test_what_is_wrong_with_a_checkpoint_is_said(wrong: str) -> None:
    changed, said, word, findings = CHECKPOINTS[wrong]
    keys: Any = OneCheckpoint(OURS)
    keys.read = lambda _note: (said, word)
    report = Report()
    walk = Walk(NoSealHolds(), keys, report)
    walk._tree = OURS
    walk.close(STORED | changed)
    assert [(one.kind, one.message) for one in report.findings] == findings


def test_an_older_checkpoint_in_the_place_of_the_next_is_named() -> None:
    report = Report()
    walk = Walk(NoSealHolds(), cast("Keys", OneCheckpoint(OURS)), report)
    walk._tree = OURS
    walk.close(STORED)
    walk.close(STORED | {"number": 2})
    (finding,) = report.findings
    assert (finding.kind, finding.checkpoint) == (Kind.BACK, 2)
    assert finding.message == "goes back, from 2 rows to 2: an older one in its place"
