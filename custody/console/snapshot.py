"""All that the page shows, as of one moment: frozen values, made of what the parts know."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from custody.console.known import Known
from custody.console.traffic import Traffic
from custody.console.tree import Tree
from custody.keks.instances import Instance
from custody.rewrap.runs import Run


class Level(StrEnum):
    """How it is."""

    WELL = "well"
    WATCH = "watch"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Todo:
    """One thing that is not as it should be.

    Args:
        level: how bad it is.
        part: what it is about.
        what: in one line, with the cure.
        cure: a command to be pasted, where there is one.
    """

    level: Level
    part: str
    what: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether all is well.

    Args:
        level: the worst of what is to do.
        sentence: one.
        todo: what is not as it should be, the worst first.
    """

    level: Level
    sentence: str
    todo: tuple[Todo, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A finding of the doctor.

    Args:
        level: how to take it; None: it could not be seen, or is no more than a note.
        part: what it is about.
        message: with the cure, where something is wrong.
        cure: a command, where there is one.
    """

    level: Level | None
    part: str
    message: str
    cure: str


@dataclass(frozen=True, slots=True)
class Kek:
    """A KEK as this process uses it.

    Args:
        uri: where it is.
        is_active: whether new keys are wrapped under it.
        in_process: whether it is in memory: nobody is called.
        problem: why it can't be used; None where it can.
        is_not_asked: whether its breaker is open.
        calls: of the last hour.
        failures: of these, those without an answer, and those that were not made.
        refusals: of these, those that it answered with no.
        seconds: that a call took on average; None: there was none.
    """

    uri: str
    is_active: bool
    in_process: bool
    problem: str | None
    is_not_asked: bool
    calls: int
    failures: int
    refusals: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Ages:
    """What grows old by itself: moments; None: not known.

    Args:
        activated: when the active KEK became the active one.
        due: when that is to be rotated.
        is_overdue: whether that is over.
        oldest: no wrap is older.
        opened: when the data key was opened last.
        kept_until: until when it is kept without its KEK.
        is_coasting: whether it could not be opened again.
        jwks: when the issuer's keys were fetched.
    """

    activated: datetime | None
    due: datetime | None
    is_overdue: bool
    oldest: datetime | None
    opened: datetime | None
    kept_until: datetime | None
    is_coasting: bool
    jwks: datetime | None


@dataclass(frozen=True, slots=True)
class Kms:
    """KEKs, and ages."""

    keks: tuple[Kek, ...]
    ages: Ages


@dataclass(frozen=True, slots=True)
class Seal:
    """The audit's seal.

    Args:
        is_made_here: whether this daemon has a sealer.
        until: every row of before is under a checkpoint; None: not known.
        is_late: whether that is long ago.
        waiting: rows behind the last checkpoint.
        alarms: looks of the last hour that found it tampered with.
    """

    is_made_here: bool
    until: datetime | None
    is_late: bool
    waiting: int
    alarms: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The page's parts; each attribute has a template of its name."""

    verdict: Verdict
    tree: Known[Tree]
    rewrap: Known[tuple[Run, ...]]
    traffic: Traffic
    kms: Kms
    audit: Seal
    instances: Known[tuple[Instance, ...]]
    doctor: Known[tuple[Found, ...]]
