"""The process that starts a throw-away system, and ends it as soon as nobody holds its input.

    python -m tests.systemd.keeper SPECIFICATION

It writes one line of JSON, ``{"init": PID, "cgroup": PATH}`` or ``{"refused": REASON}``, and then
reads its input until its end. That comes when the caller closes it, or was killed. If this process
itself is killed, the kernel kills the system with it.
"""

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.systemd import kernel
from tests.systemd.first_process import Bind, become_systemd, make_overlay

# In our own mount namespace, so it can be anything that is there on every machine and that nobody
# here needs; a temporary folder could be left behind.
STAGE = Path("/sys")
_CGROUPS = STAGE / "cgroup"
_PATIENCE = 10


def keep(binds: Sequence[Bind], *, own_network: bool, only_try: bool) -> None:
    """Start a system, wait for the end of our input, and leave nothing of it.

    Args:
        binds: what it shares with this machine.
        own_network: it has a network of its own, with loopback alone.
        only_try: start nothing: say whether it is allowed.
    """
    try:
        kernel.unshare(kernel.NEW_MOUNTS)
        kernel.mounts_stay_here()
        kernel.mount("tmpfs", STAGE, 0, "mode=0755")
        (STAGE / "console").touch()
        cgroup = _make_cgroup()
    except OSError as error:
        _say({"refused": str(error)})
        return
    namespaces = kernel.NEW_MOUNTS | kernel.NEW_CGROUPS | kernel.NEW_HOSTNAME | kernel.NEW_IPC
    if own_network:
        namespaces |= kernel.NEW_NETWORK
    try:
        kernel.unshare(kernel.NEW_PIDS)
        if only_try:
            make_overlay(Path("/"), STAGE)
            kernel.unshare(namespaces)
            _say({})
            return
        init = os.fork()
        if init == 0:
            _begin(cgroup, namespaces, binds, own_network=own_network)
        _say({"init": init, "cgroup": str(cgroup)})
        sys.stdin.buffer.read()
        os.kill(init, signal.SIGKILL)
        os.waitpid(init, 0)
    except OSError as error:
        _say({"refused": str(error)})
    finally:
        _remove_cgroup(cgroup, patience=_PATIENCE)


def _begin(cgroup: Path, namespaces: int, binds: Sequence[Bind], *, own_network: bool) -> None:
    """Turn this child into the first process of the system, or end it."""
    try:
        kernel.die_with_parent()
        (cgroup / "cgroup.procs").write_text("0")
        os.setsid()
        kernel.unshare(namespaces)
        become_systemd(STAGE, binds, own_network=own_network)
    except BaseException:  # noqa: BLE001 - a copy of the parent must not go on as the parent
        with (STAGE / "console").open("a", encoding="utf-8") as console:
            traceback.print_exc(file=console)
    os._exit(1)


def _make_cgroup() -> Path:
    """Make a cgroup below our own, in a view of the hierarchy that nobody else has."""
    _CGROUPS.mkdir()
    kernel.mount("cgroup2", _CGROUPS)
    lines = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
    own = next(line.removeprefix("0::/") for line in lines if line.startswith("0::"))
    for left in (_CGROUPS / own).glob("custody-tests-*"):
        # A keeper that was killed could not clear up.
        if not Path("/proc", left.name.rpartition("-")[2]).exists():
            _remove_cgroup(left, patience=0)
    cgroup = _CGROUPS / own / f"custody-tests-{os.getpid()}"
    (cgroup / "payload").mkdir(parents=True)
    return cgroup


def _remove_cgroup(cgroup: Path, *, patience: float) -> None:
    """Remove a cgroup whose processes were killed: it may take a moment until they are gone."""
    until = time.monotonic() + patience
    while True:
        for folder in sorted(cgroup.rglob("*/"), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        with contextlib.suppress(OSError):
            cgroup.rmdir()
        if not cgroup.exists() or time.monotonic() > until:
            return
        time.sleep(0.02)


def _say(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201


def main() -> None:
    """Read the specification, and keep the system."""
    # Whoever starts us decides by our input alone: a Ctrl-C in its terminal is not for us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given = json.loads(sys.argv[1])
    binds = [Bind(Path(source), Path(target), only) for source, target, only in given["binds"]]
    keep(binds, own_network=given["own_network"], only_try=given["only_try"])


if __name__ == "__main__":
    main()
