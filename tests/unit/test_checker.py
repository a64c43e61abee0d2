"""The checker sees what it is there for: each fault is planted in a good ledger, and is told."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from tests.checker import Kind, Row, judge
from tests.ledger import UNOPENED, Entry

AGENT = "ledger/test/"
# What each act is called in the audit.
ACTIONS = {
    "key": "fetch",
    "init": "init",
    "rotate": "rotate",
    "begin_rotation": "rotation_begin",
    "end_rotation": "rotation_end",
    "set_recovery": "recovery_set",
    "enable_zk": "zk_enable",
}


class Book:
    """A ledger that is written by hand: each request after the one before, of one user or two."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def note(self, act: str, user: str = "alice", status: int | None = 200, **more: object) -> None:
        """Add a request; with a generation, its key is that generation's and user's."""
        number = len(self.entries) + 1
        entry = Entry(number, user, act, begun=number, ended=number + 0.5, status=status)
        entry = replace(entry, **more)  # type: ignore[arg-type]
        if entry.generation is not None and not entry.key:
            entry = replace(entry, key=f"key-{entry.generation}-of-{user}")
        self.entries.append(entry)

    def rows(self) -> list[Row]:
        """Return the audit as it is where all is well."""
        return [
            Row(one.user, ACTIONS[one.act], one.status or 200, f"{AGENT}{one.number}")
            for one in self.entries
            if one.act in ACTIONS
        ]


def good() -> Book:
    """Return a ledger with some of everything, and nothing wrong."""
    book = Book()
    book.note("init", generation=1)
    book.note("init", "bob", generation=1)
    book.note("rotate", generation=2)
    book.note("rotate", status=None, code="ServerDisconnectedError")
    book.note("key", generation=3)
    book.note("key", status=503, code="DATABASE_UNAVAILABLE")
    book.note("rotate", status=503, code="OUTCOME_UNKNOWN")
    book.note("begin_rotation", generation=4, previous="key-3-of-alice")
    book.note("rotate", status=409, code="ROTATION_PENDING")
    book.note("set_recovery", "bob")
    book.note("enable_zk", "bob")
    book.note("key", generation=4, previous="key-3-of-alice")
    book.note("status", said=(("vaultExists", True),))
    state = (("vaultExists", True), ("hasRecoveryWrap", True), ("zeroKnowledge", True))
    book.note("key", "bob", generation=1)
    book.note("status", "bob", said=state)
    return book


def kinds(book: Book, rows: Sequence[Row] | None = None) -> set[Kind]:
    """Return what is found."""
    return {one.kind for one in judge(book.entries, rows or book.rows(), AGENT)}


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert judge(good().entries, good().rows(), AGENT) == []


def test_what_is_unknown_may_have_no_row() -> None:
    book = good()
    refused = {f"{AGENT}{one.number}" for one in book.entries if one.status == 503}
    assert len(refused) == 2
    assert kinds(book, [row for row in book.rows() if row.agent not in refused]) == set()


def test_a_new_key_without_a_row_is_told() -> None:
    book = good()
    (unheard,) = (f"{AGENT}{one.number}" for one in book.entries if one.status is None)
    found = kinds(book, [row for row in book.rows() if row.agent != unheard])
    assert found == {Kind.UNASKED}


def last(**changes: object) -> Callable[[Book], None]:
    """Return what changes the last look at alice's key."""

    def plant(book: Book) -> None:
        (at,) = [n for n, one in enumerate(book.entries) if (one.act, one.number) == ("key", 12)]
        book.entries[at] = replace(book.entries[at], **changes)  # type: ignore[arg-type]

    return plant


def state(**changes: bool) -> Callable[[Book], None]:
    """Return what changes the last look at bob's state."""

    def plant(book: Book) -> None:
        said = dict(book.entries[-1].said) | changes
        book.entries[-1] = replace(book.entries[-1], said=tuple(said.items()))

    return plant


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (last(status=404, code="VAULT_NOT_INITIALISED", generation=None, key=""), Kind.LOST),
        (last(previous=""), Kind.LOST),
        (state(vaultExists=False), Kind.LOST),
        (state(hasRecoveryWrap=False), Kind.LOST),
        (state(zeroKnowledge=False), Kind.LOST),
        (last(key="another"), Kind.CHANGED),
        (last(key=UNOPENED), Kind.CHANGED),
        (last(previous="another"), Kind.CHANGED),
        (last(key="key-1-of-bob"), Kind.FOREIGN),
        (last(previous="key-1-of-bob"), Kind.FOREIGN),
        (last(generation=3, key="key-3-of-alice", previous=""), Kind.STALE),
        (last(generation=6, key="key-6-of-alice", previous=""), Kind.UNASKED),
        (last(status=500, code="INTERNAL"), Kind.ANSWER),
        (last(status=401, code="UNAUTHORIZED"), Kind.ANSWER),
    ],
)
def test_a_wrong_answer_is_told(plant: Callable[[Book], None], kind: Kind) -> None:
    book = good()
    plant(book)
    assert kind in kinds(book)


@pytest.mark.parametrize(
    "plant",
    [
        lambda rows: rows[1:],
        lambda rows: [*rows, rows[0]],
        lambda rows: [*rows, rows[3]],  # of a request without an answer
        lambda rows: [replace(rows[0], status=503), *rows[1:]],
        lambda rows: [replace(rows[0], action="rotate"), *rows[1:]],
        lambda rows: [replace(rows[0], user="bob"), *rows[1:]],
        lambda rows: [*rows, Row("bob", "fetch", 200, "a thief")],
        lambda rows: [*rows, Row("bob", "fetch", 200, f"{AGENT}99")],
    ],
)
def test_a_wrong_audit_is_told(plant: Callable[[list[Row]], list[Row]]) -> None:
    book = good()
    assert kinds(book, plant(book.rows())) == {Kind.AUDIT}


def undone_unheard(place: int | None) -> tuple[Book, list[Row]]:
    """Return a ledger where a rotation seems lost, and who asked to end it has left long ago.

    Args:
        place: of that request's row among those of the others; None: it has none.
    """
    book = good()
    last(previous="")(book)
    rows = book.rows()
    gone = Entry(90, "alice", "end_rotation", begun=-900.0, ended=-885.0, code="TimeoutError")
    book.entries.insert(0, gone)
    if place is not None:
        rows.insert(place, Row("alice", "rotation_end", 200, f"{AGENT}90"))
    return book, rows


def test_what_was_undone_for_somebody_who_had_left_is_not_lost() -> None:
    book, rows = undone_unheard(8)
    assert rows[7].action == "rotation_begin"
    assert kinds(book, rows) == set()


@pytest.mark.parametrize("place", [None, 7])
def test_what_was_undone_by_nobody_since_is_lost(place: int | None) -> None:
    assert kinds(*undone_unheard(place)) == {Kind.LOST}


def test_a_request_that_was_refused_has_undone_nothing() -> None:
    book, rows = undone_unheard(8)
    rows[8] = replace(rows[8], status=409)
    assert kinds(book, rows) == {Kind.LOST}
