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
        deep: a new data key is made, and every row is brought to it.
        verify: which new wraps are unwrapped again before they are stored; None: of rows that are
            sealed for the first time all where that costs no call of a KMS, else a sample.
        quarantined: rows that were set aside in earlier runs, too.
        legacy: rows that are not sealed are brought over; else they are left as they are.
        give_up_after: seconds without a success, after which the rest is left for another time.
    """

    batch: int = 1000
    rate: int = 0
    everything: bool = False
    deep: bool = False
    verify: Verify | None = None
    quarantined: bool = False
    legacy: bool = False
    give_up_after: float = 120.0
