"""Runs inside a service's sandbox, and says what it can do there, as JSON.

    python3 probe.py FOLDERS ACTION…

FOLDERS are those to look into, with a comma between them. Standard library alone: it runs under the
interpreter of the installed custody.
"""

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# It shows a process to itself alone.
_SKIPPED = Path("/proc")


def look_into(top: str) -> tuple[list[str], list[str]]:
    """Try to make a file in every folder, and ask whether each file could be written to.

    Returns:
        Folders and files where it can be done.
    """
    folders, files = [], []
    for folder, below, names in os.walk(top):
        here = Path(folder)
        below[:] = [name for name in below if here / name != _SKIPPED]
        with contextlib.suppress(OSError):
            (here / ".custody-probe").touch(0o600, exist_ok=False)
            (here / ".custody-probe").unlink()
            folders.append(folder)
        paths = (here / name for name in names)
        files += [str(path) for path in paths if os.access(path, os.W_OK) and path.is_file()]
    return folders, files


def refused(action: str) -> bool:
    """Try, in a child, something that the daemon never does; say whether it was refused."""
    child = os.fork()
    if child == 0:
        try:
            _TRIED[action]()
        except (OSError, subprocess.SubprocessError):
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def execute_what_it_wrote() -> None:
    own = os.environ.get("RUNTIME_DIRECTORY") or os.environ["STATE_DIRECTORY"]
    program = Path(own, "program")
    program.write_text("#!/bin/sh\nexit 0\n", "utf-8")
    program.chmod(0o700)
    try:
        subprocess.run([program], check=True)
    finally:
        program.unlink()


def call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


_NEW_USER_NAMESPACE = 0x10000000
_TRACE_ME = 0
_TRIED: dict[str, Callable[[], object]] = {
    "execute what it wrote": execute_what_it_wrote,
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "user namespace": lambda: call("unshare", _NEW_USER_NAMESPACE),
    "be traced": lambda: call("ptrace", _TRACE_ME, 0, 0, 0),
    "see other processes": Path("/proc/1").stat,
    "be root": lambda: os.setuid(0),
    "read the host's key of credentials": Path("/var/lib/systemd/credential.secret").read_bytes,
    "read credentials at rest": lambda: list(Path("/etc/credstore.encrypted").iterdir()),
    "read homes": lambda: list(Path("/root").iterdir()),
}


def main() -> None:
    """Say all of it."""
    tops, *actions = sys.argv[1:]
    seen = [look_into(top) for top in tops.split(",")]
    said = {
        "folders": [folder for folders, _ in seen for folder in folders],
        "files": [file for _, files in seen for file in files],
        "refused": {action: refused(action) for action in actions},
    }
    print(json.dumps(said))  # noqa: T201


if __name__ == "__main__":
    main()
