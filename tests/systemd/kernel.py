"""The system calls that Python 3.11 has no names for, each an OSError when it is refused."""

import ctypes
import os
import platform
import signal
from pathlib import Path

# linux/sched.h
NEW_MOUNTS = 0x00020000
NEW_CGROUPS = 0x02000000
NEW_HOSTNAME = 0x04000000
NEW_IPC = 0x08000000
NEW_PIDS = 0x20000000
NEW_NETWORK = 0x40000000

# linux/mount.h
READ_ONLY = 0x1
NO_SUID = 0x2
NO_DEVICES = 0x4
NO_EXEC = 0x8
_REMOUNT = 0x20
_BIND = 0x1000
_RECURSIVE = 0x4000
_PRIVATE = 0x40000
_SHARED = 0x100000
_DETACH = 0x2

_SET_PARENT_DEATH_SIGNAL = 1
_DROP_FROM_BOUNDING_SET = 24
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (*(ctypes.c_char_p,) * 3, ctypes.c_ulong, ctypes.c_char_p)


def _must(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(namespaces: int) -> None:
    """Leave namespaces for new ones; that of processes holds from the next child on."""
    _must(_libc.unshare(namespaces), f"unshare({namespaces:#x})")


def mount(kind: str, target: Path, flags: int = 0, options: str = "") -> None:
    """Mount a file system that has no device."""
    done = _libc.mount(kind.encode(), bytes(target), kind.encode(), flags, options.encode())
    _must(done, f"mount {kind} at {target}")


def bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    """Show a file or folder at another place, too, with the mounts that are in it."""
    _must(
        _libc.mount(bytes(source), bytes(target), None, _BIND | _RECURSIVE, None), f"bind {source}"
    )
    if read_only:
        flags = _REMOUNT | _BIND | READ_ONLY
        _must(_libc.mount(None, bytes(target), None, flags, None), f"bind {source} read-only")


def mounts_stay_here() -> None:
    """Let no mount of ours reach the namespace that we came from."""
    _must(_libc.mount(None, b"/", None, _RECURSIVE | _PRIVATE, None), "private mounts")


def mounts_reach_children() -> None:
    """Let our mounts reach namespaces that are made of this one."""
    _must(_libc.mount(None, b"/", None, _RECURSIVE | _SHARED, None), "shared mounts")


def make_root(root: Path) -> None:
    """Make a mount the root, and let go of the old one."""
    number = _PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise OSError(f"the number of pivot_root(2) on {platform.machine()} is not known here")
    os.chdir(root)
    # pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one.
    _must(_libc.syscall(number, b".", b"."), "pivot_root")
    _must(_libc.umount2(b".", _DETACH), "umount of the old root")
    os.chdir("/")


def die_with_parent() -> None:
    """Be killed when the parent is gone."""
    _must(_libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "prctl")


def never_have(capabilities: tuple[int, ...]) -> None:
    """Take capabilities from whatever this process executes from now on."""
    for capability in capabilities:
        _must(_libc.prctl(_DROP_FROM_BOUNDING_SET, capability, 0, 0, 0), "prctl")
