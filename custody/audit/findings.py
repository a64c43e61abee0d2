"""What a verification of the audit has found."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

# Of each kind: whoever has damaged a million rows fills no memory with them.
_MOST = 1000


class Kind(StrEnum):
    """What is wrong."""

    ROW = "row"
    NO_SEAL = "no_seal"
    UNKNOWN_KEY = "unknown_key"
    MISSING = "missing"
    ADDED = "added"
    CHANGED = "changed"
    CHECKPOINT = "checkpoint"
    GAP = "gap"
    BACK = "back"
    ORIGIN = "origin"
    TAIL = "tail"
    HISTORY = "history"
    PRUNE = "prune"
    VAULT = "vault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Args:
        kind: what.
        message: in words, without a name that the database chose.
        rows: the first and the last number of the rows that it is about, or None.
        checkpoint: the number of the checkpoint that it is about, or None.
        row_id: of the one row that it is about, or None; as the database has it.
        user_id: whose row or vault, or None; as the database has it.
    """

    kind: Kind
    message: str
    rows: tuple[int, int] | None = None
    checkpoint: int | None = None
    row_id: str | None = None
    user_id: str | None = None


@dataclass(slots=True)
class Report:
    """All of it.

    Args:
        findings: at most a thousand of each kind.
        counts: of each kind, how many there were.
        notices: what is as it may be, and worth knowing: each in one line.
        unseen: what could not be seen from here: each in one line.
        rows: how many rows were read.
        checkpoints: how many checkpoints were read.
        vaults: how many vaults were compared.
        gone: how many vaults went with accounts that somebody else keeps.
        size: of the log, as the last good checkpoint has it.
    """

    findings: list[Finding] = field(default_factory=list)
    counts: Counter[Kind] = field(default_factory=Counter)
    notices: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    rows: int = 0
    checkpoints: int = 0
    vaults: int = 0
    gone: int = 0
    size: int = 0

    def add(self, finding: Finding) -> None:
        """Note one more finding."""
        self.counts[finding.kind] += 1
        if self.counts[finding.kind] <= _MOST:
            self.findings.append(finding)

    @property
    def is_good(self) -> bool:
        """Whether all could be seen, and nothing was found."""
        return not self.counts and not self.unseen
