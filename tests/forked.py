"""``custody`` as a process of its own, forked from one that has imported everything already.

A second of imports for each command would be most of what tests do. What a process is by itself
(its command line, the variables that /proc shows, its children) is tested with real starts.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TypeAlias

import coverage

_ROOT = Path(__file__).resolve().parent.parent
_FORKS = multiprocessing.get_context("forkserver")
# Each command imports what it does when it runs.
_COMMANDS = (_ROOT / "custody/cli/commands").glob("[!_]*.py")
_FORKS.set_forkserver_preload(
    [
        *("boto3", "custody.app", "custody.cli", "custody.supervisor", "hvac", "tests.forked"),
        *(f"custody.cli.commands.{path.stem}" for path in _COMMANDS),
    ]
)


class Forked:
    """A process that runs a module as ``python -m`` does; used like ``subprocess.Popen``.

    Args:
        module: its name.
        arguments: what comes after it on the command line.
        environ: all its variables.
        out: the file that its standard output is added to.
        err: the file that its standard error is added to.
    """

    def __init__(
        self, module: str, *arguments: str, environ: Mapping[str, str], out: Path, err: Path
    ) -> None:
        # As one that is started, it has the umask of this process.
        os.umask(umask := os.umask(0))
        self._process = ForkServerProcess(
            target=_run, args=(module, arguments, dict(environ), out, err, umask), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; the number of the signal that ended it, negative; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the same."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; return the exit code."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


# What a test may do with a process, however it was started.
AnyProcess: TypeAlias = Forked | subprocess.Popen[bytes]


def _run(  # noqa: PLR0917
    module: str,
    arguments: tuple[str, ...],
    environ: dict[str, str],
    out: Path,
    err: Path,
    umask: int,
) -> None:
    # As its own group, it can be sent what a terminal sends to all of a job.
    os.setpgid(0, 0)
    os.chdir(_ROOT)
    os.environ.clear()
    os.environ.update(environ)
    for path, descriptor in ((out, 1), (err, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.fchmod(opened, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.umask(umask)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        # Measured since the first process began; multiprocessing ends a process without atexit.
        if (measured := coverage.Coverage.current()) is not None:
            measured.stop()
            measured.save()
