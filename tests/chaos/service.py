"""A daemon as a service manager keeps it: on the same ports whenever it is started again."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from custody.http.routes import BASE_PATH
from tests.forked import AnyProcess, Forked
from tests.ports import free_port
from tests.servers import log_file, started, wait_for

# Starts a daemon with these variables, that logs there.
Launch: TypeAlias = Callable[[Mapping[str, str], Path], AnyProcess]
# With room for a machine that has others to serve.
_START_SECONDS = 120
_STOP_SECONDS = 40


def forked(environ: Mapping[str, str], log: Path) -> AnyProcess:
    """Start one the quick way."""
    variables = {"PATH": os.environ["PATH"], **environ}
    return Forked("custody", "serve", environ=variables, out=log, err=log)


def executed(environ: Mapping[str, str], log: Path) -> AnyProcess:
    """Start one as a program of its own, for what the dynamic linker is told."""
    return started(sys.executable, "-m", "custody", "serve", environ=environ, out=log, err=log)


class Service:
    """One of them.

    Args:
        environ: all its variables but its addresses.
        launch: how it is started.
    """

    process: AnyProcess

    def __init__(self, environ: Mapping[str, str], launch: Launch = forked) -> None:
        listen, admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.base = f"http://{listen}{BASE_PATH}"
        self.admin = f"http://{admin}"
        self.log = log_file("daemon")
        self.log.touch()
        self._environ = {**environ, "CUSTODY_LISTEN": listen, "CUSTODY_ADMIN_LISTEN": admin}
        self._launch = launch

    def start(self) -> None:
        """Start it, and wait until it is ready. Blocks."""
        self.process = self._launch(self._environ, self.log)
        wait_for(f"{self.admin}/readyz", self.process, self.log, _START_SECONDS)

    def kill(self) -> None:
        """End it at once. Blocks."""
        self.process.kill()
        self.process.wait(_STOP_SECONDS)

    def stop(self) -> int:
        """End it as it is to be ended, and return its exit code. Blocks."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_SECONDS)

    def end(self) -> None:
        """End it, whatever state it is in. Blocks."""
        with suppress(subprocess.TimeoutExpired):
            self.stop()
        self.kill()

    def has_ended(self) -> bool:
        """Whether it is gone."""
        return self.process.poll() is not None
