"""Process hygiene: what holds keys in memory must leave no copy of its memory behind."""

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4


def harden() -> None:
    """Forbid core dumps, and other processes of this user to read our memory (prctl(2)).

    Raises:
        OSError: the kernel refuses, which would leave keys readable.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")
