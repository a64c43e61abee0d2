"""The clock that the age of a data key is counted by."""

import time

# It goes on while the machine is suspended, where the system has such a clock.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_time() -> float:
    """Return the seconds since the machine was started, those in suspension counted."""
    return time.clock_gettime(_CLOCK)
