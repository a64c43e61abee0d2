"""A throw-away systemd: booted in namespaces, with this machine's files and none of its units.

    with throwaway([Bind(source, target)]) as system:
        system.run("systemctl", "status", "custody")

Needs root, the packages systemd, util-linux and mount, cgroup2 and overlayfs; no systemd needs to
run here. Whatever is written there is gone in the end, but for what a `Bind` shares.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.eventually import soon
from tests.leaks import LOGS

_PROGRAMS = ("mount", "nsenter", "pivot_root", "setpriv", "systemctl", "systemd-creds", "unshare")
_BOOT_SECONDS = 60
_ENVIRON = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "SYSTEMD_PAGER": "",
    "SYSTEMD_COLORS": "0",
}
_BOOT = ("unshare", "--mount", "sh", str(Path(__file__).with_name("boot.sh")))
# A command must not count as one of this machine's: it is moved before it enters, as no process
# may move itself across the border of a cgroup namespace.
_ENTER = 'echo 0 > "$1/payload/cgroup.procs" && shift && exec nsenter "$@"'
_NAMESPACES = ("--mount", "--uts", "--ipc", "--pid", "--net", "--cgroup")

Answer = subprocess.CompletedProcess[str]


class NotBooted(Exception):
    """The system did not come up."""


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


@dataclass(frozen=True)
class System:
    """A system that runs.

    Args:
        init: its first process, as this machine numbers it.
        cgroup: its cgroup.
    """

    init: int
    cgroup: Path

    def run(
        self,
        *command: str,
        stdin: str = "",
        seconds: float = 60,
        check: bool = True,
        environ: Mapping[str, str] | None = None,
    ) -> Answer:
        """Run a command in it as root, with an administrator's environment.

        Args:
            command: program and arguments.
            stdin: its input.
            seconds: how long it may take.
            check: a failure is an AssertionError with all that it said.
            environ: more variables.
        """
        done = subprocess.run(
            self._inside(command),
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

    def spawn(self, *command: str) -> "subprocess.Popen[bytes]":
        """Start a command in it as root; it ends with the system at the latest."""
        inside, nothing = self._inside(command), subprocess.DEVNULL
        return subprocess.Popen(inside, stdin=nothing, env=_ENVIRON, start_new_session=True)

    def path(self, inside: str) -> Path:
        """Return where this machine sees a file of it, to look at: a link there may lead here."""
        return Path(f"/proc/{self.init}/root", inside.lstrip("/"))

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Write a file of it, with the folders above."""
        self.run("install", "-D", f"--mode={mode:o}", "/dev/stdin", inside, stdin=text)

    def read(self, inside: str) -> str:
        """Read a file of it."""
        return self.run("cat", inside).stdout

    def journal(self, unit: str, *options: str) -> str:
        """Return what a unit, and systemd about it, has logged: messages alone."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--output=cat", f"--unit={unit}", *options).stdout

    def show(self, *names: str, unit: str = "custody.service") -> list[str]:
        """Return properties of a unit."""
        shown = self.run("systemctl", "show", f"--property={','.join(names)}", unit).stdout
        values = dict(line.split("=", 1) for line in shown.splitlines())
        return [values[name] for name in names]

    def _inside(self, command: Sequence[str]) -> list[str]:
        entered = ["sh", "-c", _ENTER, "sh", str(self.cgroup), f"--target={self.init}"]
        return [*entered, *_NAMESPACES, "--", "env", "--chdir=/root", *command]


def unavailable() -> str | None:
    """Return why no throw-away system can be had here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root can make the namespaces, and only on Linux"
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        return f"not installed: {', '.join(missing)} (packages systemd, util-linux, mount)"
    tried = subprocess.run([*_BOOT, "try"], capture_output=True, text=True, check=False)
    return tried.stderr if tried.returncode else None


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
    shared = [
        word
        for bind in binds
        for word in (str(bind.source), str(bind.target), "ro" if bind.read_only else "rw")
    ]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [*_BOOT, "keep", "own" if own_network else "shared", *shared],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        ) as keeper,
    ):
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        try:
            init, _, cgroup = keeper.stdout.readline().strip().partition(" ")
            if not init:
                errors.seek(0)
                raise NotBooted(errors.read())
            stage = Path(f"/proc/{keeper.pid}/root")
            system = System(int(init), stage / cgroup.lstrip("/"))
            try:
                soon(lambda: _is_up(system), _BOOT_SECONDS)
            except (AssertionError, OSError) as error:
                console = (stage / "sys/console").read_text("utf-8")
                raise NotBooted(f"{error}; its console:\n{console}") from None
            try:
                yield system
            finally:
                # Searched for secrets at the end of the run.
                journal = system.run("journalctl", "--output=cat", check=False).stdout
                (LOGS / f"journal-{secrets.token_hex(4)}.log").write_text(journal, "utf-8")
        finally:
            keeper.stdin.close()
            keeper.wait()


def _is_up(system: System) -> bool:
    """Say whether it is up; an OSError when it has ended."""
    # Before it is systemd its root may still be ours, and the systemd there this machine's.
    program = Path(f"/proc/{system.init}/comm").read_text("utf-8")
    if program != "systemd\n" or not system.path("run/systemd/private").is_socket():
        return False
    state = system.run("systemctl", "is-system-running", check=False).stdout.strip()
    return state in {"running", "degraded"}
