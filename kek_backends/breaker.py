"""A circuit breaker: a KMS that is down is not asked by every request, and is back soon after."""

import time

FAILURES = 5
OPEN_SECONDS = 1.0


class Breaker:
    """Opens after so many failures in a row; half-opens a second later for one call at a time."""

    def __init__(self) -> None:
        self._failures = 0
        self._opens_again = 0.0

    def admits(self) -> bool:
        """Say whether a call may be made now; while half-open, the one call of this second."""
        if not self.is_open:
            return True
        now = time.monotonic()
        if now < self._opens_again:
            return False
        self._opens_again = now + OPEN_SECONDS
        return True

    @property
    def is_open(self) -> bool:
        """Whether the last calls failed: only now and then one is made."""
        return self._failures >= FAILURES

    def succeeded(self) -> None:
        """Close: the KMS answered."""
        self._failures = 0

    def failed(self) -> None:
        """Count a failure; at the last one, open."""
        self._failures += 1
        if self.is_open:
            self._opens_again = time.monotonic() + OPEN_SECONDS
