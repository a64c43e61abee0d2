"""Whether a server lives on a folder: a lock that it holds, and the pid file that it leaves."""

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from custody.development.postgres.user import EmbeddedError

_LOCK_SECONDS: Final = 3  # a server whose daemon was killed needs a moment to shut down
_POLL_SECONDS: Final = 0.02


def take_lock(folder: Path) -> int:
    """Take the folder's lock and return its descriptor.

    The server and its children inherit it, so it is free exactly when none of them lives: a pid
    file alone can't show that after a SIGKILL, as its number may be another process's by then.

    Args:
        folder: the embedded PostgreSQL's folder

    Raises:
        EmbeddedError: another start or server holds it, or the data was not made by us.
    """
    if (folder / "data").exists() and not (folder / "lock").exists():
        raise EmbeddedError(f"{folder}/data was not made by custody: use another folder")
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise _running(folder, next(iter(pid_file(folder)), "unknown")) from None
            time.sleep(_POLL_SECONDS)
        else:
            return descriptor


def _running(folder: Path, pid: str) -> EmbeddedError:
    return EmbeddedError(
        f"the PostgreSQL in {folder} is already running (pid {pid}): stop its custody dev, or run"
        " another beside it: custody dev --data FOLDER --free-ports, or"
        " make run ARGS='--data FOLDER --free-ports'"
    )


def remove_stale_pid(folder: Path) -> None:
    """Remove what a killed server left; refuse one that was started by hand, without our lock.

    Args:
        folder: the embedded PostgreSQL's folder, its lock taken

    Raises:
        EmbeddedError: a server runs there.
    """
    data = folder / "data"
    pid = next(iter(pid_file(folder)), "")
    if not pid.isdecimal():
        return
    if _works_in(int(pid), data):
        raise _running(folder, pid)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _works_in(pid: int, data: Path) -> bool:
    """Say whether a process is a server on the data folder: it works in there."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # gone, or another user's
        return False
    process = Path("/proc", str(pid))
    if not process.exists():
        return True  # no /proc to ask: believe the pid file, as PostgreSQL does
    try:
        return (process / "cwd").readlink() == data
    except FileNotFoundError:
        return False
    except PermissionError:  # root without CAP_SYS_PTRACE, as in containers
        return (process / "comm").read_text().strip() == "postgres"


def pid_file(folder: Path) -> list[str]:
    """Return the lines of postmaster.pid, none when there is no such file."""
    try:
        text = (folder / "data" / "postmaster.pid").read_text()
    except FileNotFoundError:
        return []
    return [line.strip() for line in text.splitlines()]
