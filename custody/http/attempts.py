"""How often an address may bring a wrong token: a bound on guessing, and on what guessing costs.

The rule is that of :mod:`custody.http.rate`, with a bucket that only failures fill.
"""

import math
import time
from collections.abc import Callable

# So many wrong tokens at once, and then one in so many seconds.
BURST = 30
SECONDS_EACH = 2.0
_MOST_ADDRESSES = 4096


class Attempts:
    """Counts the wrong tokens of each address, in this process.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # When all that an address has brought is forgotten.
        self._until: dict[str, float] = {}

    def seconds_to_wait(self, address: str) -> int:
        """Return 0 where an address may try, else the whole seconds after which to try again."""
        over = self._until.get(address, 0.0) - self._clock() - (BURST - 1) * SECONDS_EACH
        return max(1, math.ceil(over)) if over > 0 else 0

    def failed(self, address: str) -> None:
        """Take note of a wrong token."""
        now = self._clock()
        until = max(now, self._until.get(address, 0.0)) + SECONDS_EACH
        if address not in self._until and len(self._until) >= _MOST_ADDRESSES:
            self._make_room(now)
        self._until[address] = until

    def _make_room(self, now: float) -> None:
        """Forget what is over anyhow, or else the address that would be forgotten first."""
        left = {address: until for address, until in self._until.items() if until > now}
        if len(left) >= _MOST_ADDRESSES:
            del left[min(left, key=left.__getitem__)]
        self._until = left
