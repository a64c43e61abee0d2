"""A throw-away systemd: booted in namespaces, with this machine's files and none of its units.

    with throwaway([Bind(source, target)]) as system:
        system.run("systemctl", "status", "custody")

Needs root, the packages systemd, util-linux (nsenter) and mount, cgroup2 and overlayfs; no systemd
needs to run here. Whatever is written there is gone in the end, but for what a `Bind` shares.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.systemd.first_process import SYSTEMD, Bind
from tests.systemd.keeper import STAGE

__all__ = ["Bind", "NotBooted", "System", "throwaway", "unavailable"]

ROOT = Path(__file__).resolve().parents[2]
_PROGRAMS = ("nsenter", "systemctl", "systemd-creds", "mount")
_BOOT_SECONDS = 60
_ENVIRON = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "SYSTEMD_PAGER": "",
    "SYSTEMD_COLORS": "0",
}
_ENTER = 'echo 0 > "$1/payload/cgroup.procs" && shift && exec "$@"'

Answer = subprocess.CompletedProcess[str]


class NotBooted(Exception):
    """The system did not come up."""


@dataclass(frozen=True)
class System:
    """A system that runs.

    Args:
        init: its first process, as this machine numbers it.
        cgroup: its cgroup.
        own_network: whether it has a network of its own.
    """

    init: int
    cgroup: Path
    own_network: bool

    def run(
        self,
        *command: str,
        stdin: str = "",
        seconds: float = 60,
        check: bool = True,
        environ: Mapping[str, str] | None = None,
        folder: str = "/root",
    ) -> Answer:
        """Run a command in it as root, with an administrator's environment.

        Args:
            command: program and arguments.
            stdin: its input.
            seconds: how long it may take.
            check: a failure is an AssertionError with all that it said.
            environ: more variables.
            folder: where it runs.
        """
        done = subprocess.run(
            self._inside(command, folder),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env=_ENVIRON | dict(environ or {}),
            start_new_session=True,
        )
        if check and done.returncode != 0:
            said = f"{done.stdout}{done.stderr}"
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
        return done

    def start(
        self, *command: str, output: "IO[bytes] | int" = subprocess.DEVNULL
    ) -> "subprocess.Popen[bytes]":
        """Start a command in it as root; it ends with the system at the latest."""
        return subprocess.Popen(
            self._inside(command, "/root"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_ENVIRON,
            start_new_session=True,
        )

    def path(self, inside: str) -> Path:
        """Return where this machine sees a file of it, to look at: a link there may lead here."""
        return Path(f"/proc/{self.init}/root", inside.lstrip("/"))

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Write a file of it, with the folders above."""
        self.run("install", "-D", f"--mode={mode:o}", "/dev/stdin", inside, stdin=text)

    def read(self, inside: str) -> str:
        """Read a file of it."""
        return self.run("cat", inside).stdout

    def journal(self, unit: str) -> str:
        """Return what a unit, and systemd about it, has logged: messages alone."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return properties of a unit."""
        wanted = ",".join(properties)
        shown = self.run("systemctl", "show", f"--property={wanted}", unit).stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def _inside(self, command: Sequence[str], folder: str) -> list[str]:
        network = ["--net"] if self.own_network else []
        enter = [
            "nsenter",
            f"--target={self.init}",
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--cgroup",
        ]
        # The command must not count as one of this machine's: it is moved before it enters, as no
        # process may move itself across the border of a cgroup namespace.
        moved = ["sh", "-c", _ENTER, "sh", str(self.cgroup)]
        there = ["env", f"--chdir={folder}"]
        return [*moved, *enter, *network, "--", *there, *command]


def unavailable() -> str | None:
    """Return why no throw-away system can be had here, or None."""
    if sys.platform != "linux":
        return "there is no systemd but on Linux"
    if os.geteuid() != 0:
        return "only root can make the namespaces"
    if not any((Path("/") / path).exists() for path in SYSTEMD):
        return "systemd is not installed (package systemd)"
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (packages systemd, util-linux, mount)"
    with _keeper([], own_network=False, only_try=True) as (_, said):
        return said.get("refused")


@contextmanager
def throwaway(binds: Sequence[Bind] = (), *, own_network: bool = False) -> Iterator[System]:
    """Boot a system for the length of the block.

    Args:
        binds: what it shares with this machine.
        own_network: it has a network of its own, with loopback alone; else this machine's, so that
            it reaches servers of tests, and its ports must be free ones.

    Raises:
        NotBooted: with what its console says.
    """
    with _keeper(binds, own_network=own_network, only_try=False) as (keeper, said):
        if "refused" in said:
            raise NotBooted(said["refused"])
        stage = Path(f"/proc/{keeper.pid}/root")
        cgroup = stage / str(said["cgroup"]).lstrip("/")
        system = System(init=int(said["init"]), cgroup=cgroup, own_network=own_network)
        _wait_for_boot(system, stage / STAGE.relative_to("/") / "console")
        yield system


def _wait_for_boot(system: System, console: Path) -> None:
    until = time.monotonic() + _BOOT_SECONDS
    state = "no systemd"
    while time.monotonic() < until:
        process = Path(f"/proc/{system.init}")
        if process.joinpath("stat").read_text("utf-8").rpartition(") ")[2].startswith("Z"):
            state = "ended, and was not up"
            break
        words = process.joinpath("cmdline").read_bytes()
        # Before it is systemd its root may still be ours, and the systemd there this machine's.
        if words.startswith(b"systemd\0") and system.path("run/systemd/private").is_socket():
            state = system.run("systemctl", "is-system-running", check=False).stdout.strip()
            if state in {"running", "degraded"}:
                return
        time.sleep(0.02)
    raise NotBooted(f"{state} within {_BOOT_SECONDS} s; its console:\n{console.read_text('utf-8')}")


@contextmanager
def _keeper(
    binds: Sequence[Bind], *, own_network: bool, only_try: bool
) -> "Iterator[tuple[subprocess.Popen[str], dict[str, str]]]":
    """Run a keeper for the length of the block, with the first line that it says."""
    shared = [(str(bind.source), str(bind.target), bind.read_only) for bind in binds]
    wanted = {"binds": shared, "own_network": own_network, "only_try": only_try}
    with tempfile.TemporaryFile("w+") as errors:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.systemd.keeper", json.dumps(wanted)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]},
            start_new_session=True,
        )
        with keeper:
            assert keeper.stdin is not None
            assert keeper.stdout is not None
            try:
                line = keeper.stdout.readline()
                if not line:
                    errors.seek(0)
                    raise NotBooted(f"the keeper ended: {errors.read()}")
                yield keeper, json.loads(line)
            finally:
                keeper.stdin.close()
                keeper.wait()
