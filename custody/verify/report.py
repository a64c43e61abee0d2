"""What a verification of rows has found."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

# Of each finding so many users are named; the others are counted.
NAMED = 100
# Whoever writes the database can have rows name any number of keys.
_MOST_FINDINGS = 1000


class Kind(StrEnum):
    """Why rows do not open, or are not as they should be."""

    SEAL = "seal"
    FORMAT = "format"
    WRAP = "wrap"
    KEY_CHECK = "key_check"
    RECOVERY = "recovery"
    LEGACY = "legacy"
    DATA_KEY = "data_key"
    DATA_KEY_AWAY = "data_key_away"
    KEK_MISSING = "kek_missing"
    KEK_OTHER = "kek_other"
    KEK_REFUSES = "kek_refuses"
    KEK_AWAY = "kek_away"
    ERASURE = "erasure"

    @property
    def is_of_row(self) -> bool:
        """Whether it is each row's own trouble: then users are named, one a line."""
        return self in _OF_ROWS

    @property
    def waits(self) -> bool:
        """Whether nothing is known to be wrong: the same rows may open later."""
        return self in {Kind.DATA_KEY_AWAY, Kind.KEK_AWAY}


_OF_ROWS = {Kind.SEAL, Kind.FORMAT, Kind.WRAP, Kind.KEY_CHECK, Kind.RECOVERY, Kind.ERASURE}


class Fault(NamedTuple):
    """Why one row does not open.

    Args:
        kind: what.
        about: the kek_id or the data key that it comes of; empty: the row itself.
        message: in one line, with the cure where there is one.
    """

    kind: Kind
    about: str
    message: str


@dataclass(slots=True)
class Finding:
    """One thing that is wrong, with all rows that it is wrong with.

    Args:
        kind: what.
        about: as for :class:`Fault`.
        message: of the first of them.
        count: how many rows.
        users: whose, at most :data:`NAMED`; as the database has them.
    """

    kind: Kind
    about: str
    message: str
    count: int = 0
    users: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Seen:
    """The rows of one kek_id.

    Args:
        rows: how many there are.
        looked_at: how many were looked at.
        good: how many of these open, or, without a wrap by the server, are as they were sealed.
    """

    rows: int = 0
    looked_at: int = 0
    good: int = 0


@dataclass(slots=True)
class Report:
    """All of it.

    Args:
        seed: that chose the rows; None: all of them.
        keks: of each kek_id; under None those without a wrap by the server.
        notices: what is as it may be, and worth knowing: each in one line.
        is_finished: whether all was looked at that was to be.
        failure: why it could not be, where the database did not answer any more.
    """

    seed: int | None
    keks: dict[str | None, Seen] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    is_finished: bool = False
    failure: str | None = None
    _findings: dict[tuple[Kind, str], Finding] = field(default_factory=dict)

    def add(self, fault: Fault, user_id: str) -> None:
        """Note what is wrong with a row.

        Args:
            fault: what.
            user_id: whose row.
        """
        finding = self.note(fault)
        finding.count += 1
        if len(finding.users) < NAMED:
            finding.users.append(user_id)

    def note(self, fault: Fault) -> Finding:
        """Note what is wrong, whether or not a row shows it.

        Args:
            fault: what.
        """
        at = fault.kind, fault.about
        if at not in self._findings and len(self._findings) >= _MOST_FINDINGS:
            at = fault.kind, ""
        return self._findings.setdefault(at, Finding(fault.kind, at[1], fault.message))

    @property
    def findings(self) -> list[Finding]:
        """What is wrong."""
        return [one for one in self._findings.values() if not one.kind.waits]

    @property
    def waiting(self) -> list[Finding]:
        """What could not be seen, since something is down."""
        return [one for one in self._findings.values() if one.kind.waits]

    @property
    def counts(self) -> dict[Kind, int]:
        """How many rows there are of each kind of trouble."""
        counted: Counter[Kind] = Counter()
        for one in self._findings.values():
            counted[one.kind] += one.count
        return dict(counted)

    @property
    def looked_at(self) -> int:
        """How many rows were looked at."""
        return sum(one.looked_at for one in self.keks.values())

    @property
    def good(self) -> int:
        """How many of them are as they should be."""
        return sum(one.good for one in self.keks.values())

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(one.rows for one in self.keks.values())
