"""What diagnostics find: for an operator, in one line each."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How an operator should take a finding."""

    OK = "ok"
    FINDING = "finding"
    DOWN = "down"
    UNSEEN = "unseen"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Args:
        verdict: how to take it.
        message: in one line; where something is wrong, with its cure. Holds no secret.
        part: what it is about, where one run of the diagnostics covers several parts.
    """

    verdict: Verdict
    message: str
    part: str = ""
