"""How a re-wrap is done."""

from dataclasses import dataclass
from enum import StrEnum


class Verify(StrEnum):
    """Which of the new wraps are unwrapped again before they are stored."""

    NONE = "none"
    SAMPLE = "sample"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    Args:
        batch: rows at most in one claim.
        rate: rows a second at most; 0: no limit.
        everything: rows under the active KEK, too.
        verify: which new wraps are unwrapped again before they are stored.
        quarantined: rows that were set aside in earlier runs, too.
        give_up_after: seconds without a success, after which the rest is left for another time.
    """

    batch: int = 500
    rate: int = 0
    everything: bool = False
    verify: Verify = Verify.SAMPLE
    quarantined: bool = False
    give_up_after: float = 120.0
