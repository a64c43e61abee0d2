"""``custody`` as a process of its own, forked from one that has imported everything already.

A second of imports for each command would be most of what tests do. What a process is by itself
(its command line, the variables that /proc shows, its children) is tested with real starts.
"""

import multiprocessing
import os
import runpy
import stat
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


class Forked(ForkServerProcess):
    """A process that runs a module as ``python -m`` does; used like ``subprocess.Popen``.

    Args:
        module: its name.
        arguments: what comes after it on the command line.
        environ: all its variables.
        out: the file that its standard output is added to.
        err: the file that its standard error is added to.
    """

    pid: int

    def __init__(
        self, module: str, *arguments: str, environ: Mapping[str, str], out: Path, err: Path
    ) -> None:
        super().__init__(daemon=True)
        self._words, self._environ, self._files = (module, *arguments), dict(environ), (out, err)
        # As one that is started, it has the umask of this process.
        os.umask(umask := os.umask(0))
        self._umask = umask
        self.start()

    @property
    def returncode(self) -> int | None:
        """The exit code; the number of the signal that ended it, negative; None while it runs."""
        return self.exitcode

    def poll(self) -> int | None:
        """Return the same."""
        return self.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; return the exit code."""
        self.join(timeout)
        if self.exitcode is None:
            raise subprocess.TimeoutExpired(self.name, timeout or 0)
        return self.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.exitcode is None:
            os.kill(self.pid, number)

    def run(self) -> None:
        """Be that process: this is called there."""
        # As its own group, it can be sent what a terminal sends to all of a job.
        os.setpgid(0, 0)
        os.chdir(_ROOT)
        os.environ.clear()
        os.environ.update(self._environ)
        for descriptor, path in enumerate(self._files, 1):
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            if stat.S_ISREG(os.fstat(opened).st_mode):
                os.fchmod(opened, 0o600)
            os.dup2(opened, descriptor)
            os.close(opened)
        os.umask(self._umask)
        sys.argv = [*self._words]
        try:
            runpy.run_module(self._words[0], run_name="__main__", alter_sys=True)
        finally:
            # Measured since the first process began; multiprocessing ends one without atexit.
            if (measured := coverage.Coverage.current()) is not None:
                measured.stop()
                measured.save()


# What a test may do with a process, however it was started.
AnyProcess: TypeAlias = Forked | subprocess.Popen[bytes]
