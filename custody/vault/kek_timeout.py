"""How long a request waits for a KEK, whether it is asked for a master key or a data key."""

import asyncio

from custody.deadline import Deadline

KEK_TIMEOUT_SECONDS = 5.0
# What a KEK that hangs leaves of the deadline, so that its failure can still be recorded.
_RECORD_SECONDS = 1.0


def kek_timeout(deadline: Deadline) -> asyncio.Timeout:
    """Bound a wait for a KEK.

    Args:
        deadline: of the whole request.
    """
    return asyncio.timeout_at(deadline.before(_RECORD_SECONDS).within(KEK_TIMEOUT_SECONDS).at)
