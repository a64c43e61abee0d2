"""A limit on each user's requests, in this process.

The generic cell rate algorithm (ITU-T I.371): one number per user, the time at which the user's
bucket is full again.
"""

import math
import time
from collections.abc import Callable

_SWEEP_AT_LEAST = 1024


class RateLimit:
    """At most ``rate`` requests a second and user, and bursts of one second's worth.

    Args:
        rate: requests a second; 0 is no limit.
        clock: seconds, monotonic.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._most = 1 - self._interval + 1e-9
        self._clock = clock
        self._full_at: dict[str, float] = {}
        self._sweep_at = _SWEEP_AT_LEAST

    def seconds_to_wait(self, user_id: str) -> int:
        """Count a request, or refuse it.

        Returns:
            0 when it may go on, else the whole seconds after which to try again.
        """
        if not self._interval:
            return 0
        now = self._clock()
        full_at = self._full_at.get(user_id, now)
        if full_at < now:
            full_at = now
        elif full_at - now > self._most:
            return max(1, math.ceil(full_at - now - self._most))
        self._full_at[user_id] = full_at + self._interval
        if len(self._full_at) >= self._sweep_at:
            self._sweep(now)
        return 0

    def _sweep(self, now: float) -> None:
        """Forget users with an empty bucket, so that memory follows the users of this second."""
        self._full_at = {user: at for user, at in self._full_at.items() if at > now}
        self._sweep_at = max(_SWEEP_AT_LEAST, 2 * len(self._full_at))
