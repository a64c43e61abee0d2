"""Process hygiene: what holds keys in memory must leave no copy of its memory behind."""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
# mlockall(2): pages that are there, pages to come, and each only once it is used.
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def harden() -> None:
    """Forbid core dumps, other processes to read our memory, and swapping where that is allowed.

    Memory is locked only where it may be without limit (``LimitMEMLOCK=infinity``): under a finite
    one, the allocation that goes beyond it would fail. Sources: prctl(2), mlockall(2).

    Raises:
        OSError: the kernel refuses to protect the memory, which would leave keys readable.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")
        if may_lock_memory():
            # A kernel that refuses leaves swapping as it was: the same as without the limit.
            libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def is_dumpable() -> bool:
    """Say whether this process may be dumped, and read by others of its user (prctl(2))."""
    if sys.platform != "linux":
        return True
    libc = ctypes.CDLL(None, use_errno=True)
    # 2: its dumps are for root alone.
    return bool(libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 1)


def may_lock_memory() -> bool:
    """Say whether all memory may be locked, and is by :func:`harden`."""
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY


def end_with_parent(parent: int) -> None:
    """Be sent SIGTERM when the process that started this one ends, however it ends (prctl(2)).

    Args:
        parent: its process id.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        # It ended before it could be asked for.
        sys.exit(0)
