"""Log lines that a caller can't have any number of."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

_LINE_SECONDS = 60.0

SubjectT = TypeVar("SubjectT")


class Bounded(Generic[SubjectT]):
    """Says when a line is due: for each subject once a minute at most.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._unlogged: Counter[SubjectT] = Counter()
        self._logged_at: dict[SubjectT, float] = {}

    def count(self, subject: SubjectT) -> int:
        """Take note of one event.

        Args:
            subject: one of a fixed set.

        Returns:
            How many there were since the last line, where a line is due now, else 0.
        """
        self._unlogged[subject] += 1
        now = self._clock()
        if now - self._logged_at.get(subject, float("-inf")) < _LINE_SECONDS:
            return 0
        self._logged_at[subject] = now
        return self._unlogged.pop(subject)
