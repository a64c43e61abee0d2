"""What diagnostics find: for an operator, in one line each."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Severity(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


class Verdict(StrEnum):
    """How an operator should take a finding."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    FINDING = "finding"
    DOWN = "down"
    UNSEEN = "unseen"


_SEVERITIES: Final = {
    Verdict.OK: Severity.OK,
    Verdict.NOTE: Severity.NOTE,
    Verdict.UNSEEN: Severity.NOTE,
    Verdict.WARNING: Severity.WARNING,
    Verdict.FINDING: Severity.ERROR,
    Verdict.DOWN: Severity.ERROR,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Args:
        verdict: how to take it.
        message: in one line; where something is wrong, with its cure. Holds no secret.
        part: what it is about, where one run of the diagnostics covers several parts.
        cure: the command that mends it, or SQL, in one line to be pasted; empty: there is none.
    """

    verdict: Verdict
    message: str
    part: str = ""
    cure: str = ""

    @property
    def severity(self) -> Severity:
        """How much it matters."""
        return _SEVERITIES[self.verdict]
