"""Checkpoints that were kept elsewhere, each of which the log must go through."""

from hashlib import sha256

from custody.audit.checkpoint import Checkpoint
from custody.audit.findings import Kind, Report
from custody.audit.history import History, Known
from custody.audit.merkle import Tree

LEAVES = [sha256(bytes([number])).digest() for number in range(6)]


def tree_of(size: int) -> Tree:
    return Tree().extended(b"".join(LEAVES[:size]))


def known(size: int) -> Known:
    return Known(size, tree_of(size).root)


def said_of(history: History) -> list[str]:
    report = Report()
    history.end(report)
    assert {finding.kind for finding in report.findings} <= {Kind.HISTORY}
    return [finding.message for finding in report.findings]


def test_each_that_the_log_does_not_go_through_is_named() -> None:
    history = History([known(6), Known(3, bytes(32)), known(2)])
    tree = history.extended(Tree(), b"".join(LEAVES[:5]))
    assert tree.root == tree_of(5).root
    first, second = said_of(history)
    assert first.startswith("the log is another one at 3 rows, of which there is a checkpoint")
    assert second.startswith("the log ends before 6 rows, of which there is a checkpoint")


def test_it_goes_through_all() -> None:
    history = History(map(known, (0, 1, 3, 6)))
    tree = history.extended(Tree(), b"".join(LEAVES[:3]))
    history.extended(tree, b"".join(LEAVES[3:]))
    assert said_of(history) == []


def test_those_from_before_what_is_read_are_told() -> None:
    history = History([known(3), known(1), known(2), known(4)])
    assert history.begin(tree_of(3)) == (1, 2)
    history.extended(tree_of(3), b"".join(LEAVES[3:]))
    assert said_of(history) == []


def test_where_rows_are_damaged_the_logs_own_checkpoint_counts() -> None:
    history = History([known(2), known(4)])
    history.extended(Tree(), bytes(4 * 32))
    history.settle(Checkpoint("log", 4, tree_of(4).root, 4))
    (message,) = said_of(history)
    assert message.startswith("the log is another one at 2 rows")
    history.settle(Checkpoint("log", 2, tree_of(2).root, 2))
    history.settle(Checkpoint("log", 4, bytes(32), 4))
    (message,) = said_of(history)
    assert message.startswith("the log is another one at 4 rows")
