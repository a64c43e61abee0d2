"""Fill a virtual environment with what the lock files say, and with this checkout.

    python3 -I .ci/install.py FOLDER run|dev

``run`` is what ``make run`` needs, ``dev`` has the tools for tests and checks as well. `make` calls
this before everything else; where all is there it returns at once. An environment counts as whole
by what is written in it after the last step, so one that was interrupted is made anew, and so is
one for other locks, another Python or another place. Only the standard library is there for this.
"""

import sys

if sys.hexversion < 0x030B0000:  # before anything that an older Python doesn't have
    sys.exit(
        f"custody needs Python 3.11 or newer, and {sys.executable} is {sys.version.split()[0]}:"
        " name another, for example make PYTHON=python3.12 run"
    )

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
# Each is a part of the next.
LOCKS = ("requirements-run.lock", "requirements-dev.lock")
KINDS = {"run": LOCKS[:1], "dev": LOCKS}
_PROJECT = "pyproject.toml"
_DISTRIBUTION = "custody-daemon"
_OLDEST_PIP = (22, 3)  # the first that fills an environment other than its own
_TENTH = 10
_OTHER_PYTHON = "name another Python, for example make PYTHON=python3.12 run"


class CannotInstall(Exception):
    """The environment can't be made; the message is one line with the cure."""


class Environment:
    """A virtual environment, locked against every other installation in it while this lives.

    Args:
        folder: where it is, or will be.

    Raises:
        CannotInstall: something else is there.
        OSError: the folder can't be made or locked.
    """

    def __init__(self, folder: Path) -> None:
        self.shown = folder
        self.folder = folder.absolute()
        self.python = self.folder / "bin" / "python"
        self._lock = self.folder / ".custody-lock"
        self._state = self.folder / ".installed"
        self._log = self.folder / "install.log"
        self._pip: list[str] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        # It may be cleared: never what somebody else has made.
        if not (self._lock.exists() or self._state.exists()) and any(self.folder.iterdir()):
            raise CannotInstall(
                f"{folder} was not made by make: remove it, or name another folder with VENV="
            )
        self._held = self._lock.open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for the installation that is under way in {folder}")
            fcntl.flock(self._held, fcntl.LOCK_EX)

    def fill(self, locks: tuple[str, ...]) -> None:
        """Bring it to what the locks say, with the checkout as an editable installation.

        Args:
            locks: files in the checkout.

        Raises:
            CannotInstall: with the cure.
            OSError: a file can't be read or written.
        """
        current = {name: self._digest(name) for name in (*LOCKS, _PROJECT)}
        found = self._installed()
        if all(found.get(name) == current[name] for name in (*locks, _PROJECT)):
            return
        # From here to the last line it isn't whole, whatever ends us.
        self._state.unlink(missing_ok=True)
        there = found.keys() - {_PROJECT}
        if not there or any(found[name] != current.get(name) for name in there):
            self._make()
            there = set()
        self._find_pip()
        for name in locks:
            if name not in there:
                self._install(name)
        self._run_pip("install", "--no-deps", "--no-build-isolation", "--no-user", "-e", str(ROOT))
        self._run_pip("check")
        new = self._state.with_name(".installed.new")
        new.write_text(
            json.dumps({name: current[name] for name in (*locks, *there, _PROJECT)}), "utf-8"
        )
        new.rename(self._state)

    def _digest(self, name: str) -> str:
        """Return what changes whenever an installation of this file would come out otherwise."""
        # The places, because scripts and the editable installation have them in them; the name,
        # because an installation under another one would stay beside it.
        places = (os.path.realpath(_base_python()), self.folder, ROOT)
        about = "\n".join(map(str, (sys.version, *places, _DISTRIBUTION, "")))
        return hashlib.sha256(about.encode() + (ROOT / name).read_bytes()).hexdigest()

    def _installed(self) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads(self._state.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found if self.python.exists() else {}

    def _make(self) -> None:
        for path in self.folder.iterdir():
            if path == self._lock:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        done = _run([_base_python(), "-I", "-m", "venv", "--without-pip", str(self.folder)])
        if done.returncode:
            raise CannotInstall(
                f"{_base_python()} can't make a virtual environment ({_last_line(done)}):"
                f" {_OTHER_PYTHON}"
            )

    def _find_pip(self) -> None:
        """Use the Python's own pip, or else the one that comes inside of every Python."""
        outer = [_base_python(), "-I", "-m", "pip"]
        if _pip_version(outer) >= _OLDEST_PIP:
            self._pip = [*outer, "--python", str(self.python)]
            return
        self._pip = [str(self.python), "-I", "-m", "pip"]
        if _pip_version(self._pip) >= _OLDEST_PIP:
            return
        if _run([str(self.python), "-I", "-m", "ensurepip", "--default-pip"]).returncode:
            raise CannotInstall(
                f"{_base_python()} has neither pip nor ensurepip: install one (on Debian and"
                f" Ubuntu: apt install python3-venv), or {_OTHER_PYTHON}"
            )

    def _install(self, name: str) -> None:
        # The lock is whole. With dependencies, pip would ask the index about them, and in hash
        # mode some releases stop at what they find there that is newer than the lock.
        # Wheels only: the build of a source distribution would take what no lock pins.
        options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile"]
        lines = (ROOT / name).read_text("utf-8").splitlines()
        here = [line for line in lines if line[:1].isalnum() and "'win32'" not in line]
        count = len({line.partition("==")[0] for line in here})
        say(f"installing the {count} packages of {name} into {self.shown}")
        self._run_pip("install", *options, "--no-user", "-r", str(ROOT / name), count=count)

    def _run_pip(self, *arguments: str, count: int = 0) -> None:
        process = subprocess.Popen(
            [*self._pip, "--disable-pip-version-check", "--no-input", *arguments],
            # Python's variables would add folders from elsewhere to what "is installed already".
            env={name: value for name, value in os.environ.items() if name[:6] != "PYTHON"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # It keeps the lock: should we be killed, nobody begins anew while it still writes.
            pass_fds=(self._held.fileno(),),
        )
        with self._log.open("a", encoding="utf-8") as log:
            complaint = _follow(process, log, count)
        if process.returncode:
            raise CannotInstall(
                f"pip {arguments[0]} failed: {complaint} (more in {self.shown / self._log.name})."
                " Most often the package index isn't reached (network, proxy, pip config list), or"
                f" has no wheel for Python {platform.python_version()} on {platform.machine()}"
            )


def _follow(process: "subprocess.Popen[str]", log: IO[str], count: int) -> str:
    """Keep what pip says, show a person how far it is, and return its first complaint."""
    # A terminal has one line that changes; a log has a line for each tenth package.
    person, step = sys.stdout.isatty(), 1 if sys.stdout.isatty() else _TENTH
    seen, last, complaint = 0, "", ""
    for line in process.stdout or ():
        log.write(line)
        last = line.strip() or last
        # What pip prints is all that it tells of its progress and of its errors.
        if line.startswith("ERROR: ") and not complaint:
            complaint = line.removeprefix("ERROR: ").strip()
        if count and line.startswith(("Collecting ", "Requirement already ")):
            seen += 1
            if seen % step == 0 or seen == count:
                say(f"  {seen} of {count} fetched", end="\r" if person else "\n")
        elif count and line.startswith("Installing collected packages"):
            say("  unpacking them", end="\r" if person else "\n")
    if person and count:
        say("", end="\r")
    process.wait()
    return complaint or last


def _base_python() -> str:
    """Return this Python, or the one that its environment was made from: that may be cleared."""
    return getattr(sys, "_base_executable", None) or sys.executable


def _pip_version(pip: list[str]) -> tuple[int, ...]:
    words = _run([*pip, "--version"]).stdout.split()  # pip 23.2.1 from …
    if words[:1] != ["pip"]:
        return (0,)
    return tuple(int(part) for part in words[1].split(".")[:2] if part.isdecimal())


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _last_line(done: "subprocess.CompletedProcess[str]") -> str:
    return done.stdout.strip().rpartition("\n")[2]


def say(text: str, end: str = "\n") -> None:
    """Tell whoever waits, at once; on a terminal, over what stood on the line."""
    clear = "\033[K" if sys.stdout.isatty() else ""
    sys.stdout.write(f"{clear}{text}{end}")
    sys.stdout.flush()


def main(folder: str, kind: str) -> None:
    """Make the environment whole; a failure is one line.

    Args:
        folder: the virtual environment.
        kind: run or dev.
    """
    try:
        Environment(Path(folder)).fill(KINDS[kind])
    except CannotInstall as error:
        sys.exit(f"custody: {error}")
    except OSError as error:
        sys.exit(
            f"custody: can't use {error.filename or folder} ({error.strerror}): name a folder for"
            " the virtual environment that you may write to, for example"
            f' make VENV="$HOME/custody-venv" {"run" if kind == "run" else "test"}'
        )
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
