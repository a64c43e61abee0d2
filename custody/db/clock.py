"""The database's own clock, as its answers show it.

A deadline is sent as a time on the database's clock: a frozen server may leave a statement unread
in its socket for longer than the request lasts, so seconds counted from when it is read would end
too late. And the clocks of daemon and database may differ.
"""

import asyncio

# How long a reading is used. Meanwhile the clock may be set, or the database fail over.
_GOOD_FOR_SECONDS = 60.0


class DatabaseClock:
    """Converts a moment of the event loop to the database's time, never late."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._read_at = float("-inf")

    def observe(self, said: float) -> None:
        """Take a reading.

        The event loop's clock may lag by a millisecond; the margin of a deadline is 250.

        Args:
            said: what the clock said, in seconds since 1970, at any moment before now. The longer
                ago, the earlier are the deadlines that come of it: never too late.
        """
        self._read_at = asyncio.get_running_loop().time()
        self._ahead = said - self._read_at

    def at(self, moment: float) -> float | None:
        """Return what the clock will say at a moment, in seconds since 1970, or a little less.

        Args:
            moment: as ``loop.time()`` counts.

        Returns:
            None where there is no recent reading.
        """
        if asyncio.get_running_loop().time() - self._read_at > _GOOD_FOR_SECONDS:
            return None
        return moment + self._ahead
