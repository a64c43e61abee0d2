"""Whether keys can get out of memory: by core dumps, by other processes, by swap."""

import resource
import socket
from collections.abc import Iterable
from pathlib import Path

from custody.keks.instances import Instance
from custody.ops.process import is_dumpable, may_lock_memory
from kek_backends.findings import Finding, Verdict

_PART = "memory"
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_FOLDER = "/etc/systemd/system/custody.service.d"
_CURE = (
    f"mkdir -p {_FOLDER} && printf '[Service]\\nLimitMEMLOCK=infinity\\nMemorySwapMax=0\\n"
    f"LimitCORE=0\\n' > {_FOLDER}/memory.conf && systemctl daemon-reload && "
    "systemctl restart custody"
)


def examine_this_process() -> list[Finding]:
    """Say whether the memory of this process is shut, as a daemon here would shut its own."""
    if is_dumpable() or resource.getrlimit(resource.RLIMIT_CORE)[0]:
        message = "this process may be dumped, and read by others of its user: keys with it"
        return [Finding(Verdict.WARNING, message, _PART, _CURE), examine_swap()]
    message = "no core dumps of this process, and no other one of its user may read it"
    return [Finding(Verdict.OK, message, _PART), examine_swap()]


def examine_swap(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> Finding:
    """Say whether memory that is locked in no way could be swapped.

    Args:
        proc: where the kernel shows it.
        cgroups: where it shows control groups.
    """
    if may_lock_memory():
        return Finding(Verdict.OK, "it is locked: it never gets into swap", _PART)
    return _of_swap("this process", proc, proc / "self", cgroups)


def _of_swap(whose: str, proc: Path, process: Path, cgroups: Path) -> Finding:
    """Say whether what is not locked could be swapped."""
    if _swaps_nothing(process, cgroups):
        return Finding(Verdict.OK, f"{whose} can't be swapped: its control group may not", _PART)
    try:
        swaps = [line.split()[0] for line in (proc / "swaps").read_text().splitlines()[1:]]
    except OSError:
        message = f"whether {whose} can be swapped was not seen: {proc}/swaps is hidden from here"
        return Finding(Verdict.UNSEEN, message, _PART, "swapon --show")
    if not swaps:
        return Finding(Verdict.OK, f"{whose} can't be swapped: there is no swap", _PART)
    message = (
        f"there is swap ({', '.join(swaps)}), and the memory of {whose} is not locked "
        "(LimitMEMLOCK): keys may get to disk"
    )
    return Finding(Verdict.WARNING, message, _PART, _CURE)


def examine_daemons(
    instances: Iterable[Instance], proc: Path = _PROC, cgroups: Path = _CGROUPS
) -> list[Finding]:
    """Look at the memory of the live daemons of this host, as far as it is shown.

    Args:
        instances: the live ones, of all hosts.
        proc: where the kernel shows processes.
        cgroups: where it shows control groups.
    """
    here = sorted({one.process for one in instances if one.host == socket.gethostname()})
    return [_of_daemon(process, proc, cgroups) for process in here]


def _of_daemon(process: int, proc: Path, cgroups: Path) -> Finding:
    folder = proc / str(process)
    try:
        said = dict(
            line.split(":", 1)
            for line in (folder / "status").read_text().splitlines()
            if ":" in line
        )
        # Of one that can't be dumped, the kernel gives the files to root: proc(5).
        owner, user = folder.stat().st_uid, int(said["Uid"].split()[1])
        swapped, locked = (int(said.get(name, "0").split()[0]) for name in ("VmSwap", "VmLck"))
    except (OSError, KeyError, ValueError, IndexError):
        message = f"of the daemon {process} nothing was seen: its process is hidden from here"
        return Finding(Verdict.UNSEEN, message, _PART)
    if can_be_dumped(owner, user):
        message = f"the daemon {process} may be dumped, and read by other processes of its user"
        return Finding(Verdict.WARNING, message, _PART, _CURE)
    if swapped:
        message = f"{swapped} kB of the daemon {process} are in swap: keys may be on disk"
        return Finding(Verdict.WARNING, message, _PART, _CURE)
    if locked:
        return Finding(Verdict.OK, f"the memory of the daemon {process} is locked", _PART)
    return _of_swap(f"the daemon {process}", proc, folder, cgroups)


def can_be_dumped(owner: int, user: int) -> bool:
    """Say whether a process can be dumped for sure; of root's own it is not shown.

    Args:
        owner: of its files in /proc.
        user: that it runs as.
    """
    return owner == user != 0


def _swaps_nothing(process: Path, cgroups: Path) -> bool:
    try:
        (own,) = (
            line.removeprefix("0::/")
            for line in (process / "cgroup").read_text().splitlines()
            if line.startswith("0::/")
        )
        return (cgroups / own / "memory.swap.max").read_text().strip() == "0"
    except (OSError, ValueError):
        return False
