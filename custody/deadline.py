"""A request's deadline: one moment that bounds every wait of the request."""

import asyncio
from typing import NamedTuple, Self


class Deadline(NamedTuple):
    """A moment on the event loop's clock.

    Args:
        at: seconds, as ``loop.time()`` counts them.
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """Return the deadline that lies this many seconds ahead."""
        return cls(asyncio.get_running_loop().time() + seconds)

    def remaining(self) -> float:
        """Return the seconds left; negative when it has passed."""
        return self.at - asyncio.get_running_loop().time()

    def before(self, seconds: float) -> "Deadline":
        """Return the deadline that lies this many seconds earlier."""
        return Deadline(self.at - seconds)

    def within(self, seconds: float) -> "Deadline":
        """Return the earlier of this deadline and one that many seconds ahead."""
        return Deadline(min(self.at, Deadline.after(seconds).at))
