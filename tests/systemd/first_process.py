"""Makes the root of a throw-away system, and becomes its PID 1.

A copy-on-write view of this machine's files, with API file systems as
https://systemd.io/CONTAINER_INTERFACE asks for them, and none of this machine's units.
"""

import os
import secrets
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.systemd import kernel

SYSTEMD = ("usr/lib/systemd/systemd", "lib/systemd/systemd")
_LIBRARIES = ("usr/lib/systemd", "lib/systemd", "usr/local/lib/systemd", "etc/systemd")
_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "fd/0",
    "stdout": "fd/1",
    "stderr": "fd/2",
}
# They may be file systems of their own: an overlay of the root does not show what is in those.
_PARTS = ("etc", "home", "opt", "root", "srv", "usr", "var")
_SAFE = kernel.NO_SUID | kernel.NO_DEVICES | kernel.NO_EXEC
# CAP_SYS_MODULE, SYS_RAWIO, SYS_TIME, MAC_OVERRIDE, MAC_ADMIN, SYSLOG, WAKE_ALARM, BLOCK_SUSPEND:
# what they are for belongs to the machine, and no namespace keeps it apart.
_MACHINE = (16, 17, 25, 32, 33, 34, 35, 36)
_NET_ADMIN = 12

_BASIC_TARGET = """\
[Unit]
Description=Basics of a throw-away system
Requires=sysinit.target
Wants=sockets.target timers.target systemd-journald.service systemd-journald-dev-log.socket
Wants=dbus.socket
After=sysinit.target sockets.target timers.target systemd-journald.service
AllowIsolate=yes
"""
_JOURNAL = "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nForwardToConsole=no\n"


@dataclass(frozen=True)
class Bind:
    """A file or folder of this machine that the system sees, and writes to.

    Args:
        source: here.
        target: there, an absolute path.
        read_only: it may not be written to there.
    """

    source: Path
    target: Path
    read_only: bool = False


def become_systemd(stage: Path, binds: Sequence[Bind], *, own_network: bool) -> None:
    """Make the root below `stage`, and execute systemd on it. Never returns.

    Args:
        stage: an empty tmpfs of this mount namespace, with a file ``console``.
        binds: what is shared with this machine.
        own_network: whether this process is in a network namespace of its own.

    Raises:
        OSError: the kernel, or the machine, does not allow it.
    """
    root = make_overlay(Path("/"), stage)
    for part in _PARTS:
        if (Path("/") / part).is_mount():
            kernel.bind(make_overlay(Path("/") / part, stage), root / part)
    _mount_interfaces(root, stage / "console")
    for share in binds:
        _share(share, root)
    _forget_this_machine(root)
    program = next(path for path in SYSTEMD if (root / path).exists())
    kernel.make_root(root)
    # Without it, what systemd mounts for a service would not be seen in that one's own namespace.
    kernel.mounts_reach_children()
    console = os.open("/dev/console", os.O_WRONLY | os.O_APPEND | os.O_NOCTTY)
    for descriptor in (1, 2):
        os.dup2(console, descriptor)
    os.closerange(3, console + 1)
    kernel.never_have(_MACHINE if own_network else (*_MACHINE, _NET_ADMIN))
    environ = {"container": "custody-tests", "LANG": "C.UTF-8"}
    options = ("--system", "--unit=basic.target", "--show-status=no", "--log-target=journal")
    os.execve(f"/{program}", ["systemd", *options], environ)  # noqa: S606


def make_overlay(lower: Path, stage: Path) -> Path:
    """Return a view of a folder whose writes are kept in `stage`.

    Raises:
        OSError: the kernel refuses.
    """
    upper, work, merged = (stage / f"{kind}-{lower.name}" for kind in ("upper", "work", "merged"))
    for folder in (upper, work, merged):
        folder.mkdir(mode=0o755)
    kernel.mount("overlay", merged, 0, f"lowerdir={lower},upperdir={upper},workdir={work}")
    return merged


def _mount_interfaces(root: Path, console: Path) -> None:
    for name in ("proc", "sys", "run", "dev"):
        (root / name).mkdir(exist_ok=True)
    kernel.mount("proc", root / "proc", _SAFE)
    for name in ("sys", "sysrq-trigger"):
        if (path := root / "proc" / name).exists():
            kernel.bind(path, path, read_only=True)
    kernel.mount("sysfs", root / "sys", _SAFE | kernel.READ_ONLY)
    kernel.mount("cgroup2", root / "sys/fs/cgroup", _SAFE)
    kernel.mount("tmpfs", root / "run", kernel.NO_SUID | kernel.NO_DEVICES, "mode=0755")
    dev = root / "dev"
    kernel.mount("tmpfs", dev, kernel.NO_SUID, "mode=0755")
    for name in _NODES:
        there = Path("/dev", name).stat()
        os.mknod(dev / name, there.st_mode, there.st_rdev)
        (dev / name).chmod(stat.S_IMODE(there.st_mode))
    for name, to in _LINKS.items():
        (dev / name).symlink_to(to)
    (dev / "pts").mkdir()
    kernel.mount("devpts", dev / "pts", kernel.NO_SUID, "newinstance,ptmxmode=0666,mode=0620,gid=5")
    (dev / "shm").mkdir()
    kernel.mount("tmpfs", dev / "shm", kernel.NO_SUID | kernel.NO_DEVICES, "mode=1777")
    (dev / "console").touch()
    kernel.bind(console, dev / "console")


def _share(share: Bind, root: Path) -> None:
    target = root / share.target.relative_to("/")
    if share.source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    kernel.bind(share.source, target, read_only=share.read_only)


def _forget_this_machine(root: Path) -> None:
    """Take away, in the overlay alone, what would start units or tell who this machine is."""
    for library in {(root / path).resolve() for path in _LIBRARIES}:
        for generators in ("system-generators", "system-environment-generators"):
            shutil.rmtree(library / generators, ignore_errors=True)
        for kind in ("wants", "requires"):
            for folder in (library / "system").glob(f"*.{kind}"):
                shutil.rmtree(folder)
    own = root / "etc/systemd/system"
    own.mkdir(parents=True, exist_ok=True)
    _write(own / "basic.target", _BASIC_TARGET)
    _write(root / "run/systemd/journald.conf.d/throwaway.conf", _JOURNAL)
    _write(root / "etc/machine-id", f"{secrets.token_hex(16)}\n")
    _write(root / "etc/fstab", "")
    # The key of the machine's own credentials. The system makes one of its own.
    (root / "var/lib/systemd/credential.secret").unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text, "utf-8")
