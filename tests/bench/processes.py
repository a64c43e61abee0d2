"""What processes use: CPU and memory of a daemon or server with all its children, from /proc."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_MIB = 1 << 20
_KIB_A_MIB = 1 << 10
# Of /proc/PID/stat, counted from the state, which follows the name in parentheses (proc(5)).
_PARENT, _USER, _CHILDREN_SYSTEM = 1, 11, 14
# Of the first line of /proc/stat: idle and iowait; guests are counted in user already.
_IDLE, _GUESTS = slice(3, 5), slice(8, None)


def family(pid: int) -> dict[int, list[str]]:
    """Return a process and all below it, each with the fields of its ``stat`` from the state on."""
    found: dict[int, list[str]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text("utf-8", "replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            found[int(entry.name)] = text.rpartition(")")[2].split()
    wanted = {pid}
    while grown := {
        one for one, stat in found.items() if int(stat[_PARENT]) in wanted and one not in wanted
    }:
        wanted |= grown
    return {one: found[one] for one in wanted if one in found}


def cpu_seconds(pid: int) -> float:
    """Return the CPU that a process and all below it have used; those that ended count, too."""
    ticks = sum(
        int(ticks) for stat in family(pid).values() for ticks in stat[_USER : _CHILDREN_SYSTEM + 1]
    )
    return ticks / _TICKS


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process and all below it.

    What they share counts once for each.
    """
    total = 0
    for one in family(pid):
        try:
            lines = (_PROC / str(one) / "status").read_text("utf-8").splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return total / _KIB_A_MIB


def machine_seconds() -> float:
    """Return the CPU that the whole machine has used, and what its host took away from it."""
    words = (_PROC / "stat").read_text("utf-8").partition("\n")[0].split()[1:]
    ticks = [int(word) for word in words]
    return (sum(ticks) - sum(ticks[_IDLE]) - sum(ticks[_GUESTS])) / _TICKS


@dataclass
class Meter:
    """Measures what some processes use during a block.

    Args:
        pids: the first process of each, by name.

    Attributes:
        cpu: percent of one core, by name; ``machine`` is all of the machine.
    """

    pids: Mapping[str, int]
    cpu: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Measure from here to the end of the block."""
        before, began = self._now(), time.perf_counter()
        yield self
        seconds = time.perf_counter() - began
        self.cpu = {
            name: 100 * (used - before[name]) / seconds for name, used in self._now().items()
        }

    def _now(self) -> dict[str, float]:
        used = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        return used | {"machine": machine_seconds()}


def step_back() -> None:
    """Have this process run only where nobody else wants the processor.

    To be nice is not enough: the scheduler lets who is nice finish a slice of some milliseconds.
    """
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def machine() -> dict[str, object]:
    """Describe this machine."""
    lines = (_PROC / "cpuinfo").read_text("utf-8", "replace").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": models[0] if models else os.uname().machine,
        "memory_mib": memory // _MIB,
        "kernel": os.uname().release,
    }
