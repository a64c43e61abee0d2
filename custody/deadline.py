"""A request's deadline: one moment that bounds every wait of the request."""

import asyncio
import math
from typing import NamedTuple, Self


class Deadline(NamedTuple):
    """A moment on the event loop's clock.

    Args:
        at: seconds, as ``loop.time()`` counts them.
        begun: when the request began, counted so.
    """

    at: float
    begun: float = -math.inf

    @classmethod
    def after(cls, seconds: float) -> Self:
        """Return the deadline that lies this many seconds ahead."""
        now = asyncio.get_running_loop().time()
        return cls(now + seconds, now)

    def remaining(self) -> float:
        """Return the seconds left; negative when it has passed."""
        return self.at - asyncio.get_running_loop().time()

    def before(self, seconds: float) -> "Deadline":
        """Return the deadline that lies this many seconds earlier."""
        return self._replace(at=self.at - seconds)

    def within(self, seconds: float) -> "Deadline":
        """Return the earlier of this deadline and one that many seconds ahead."""
        return self._replace(at=min(self.at, Deadline.after(seconds).at))
