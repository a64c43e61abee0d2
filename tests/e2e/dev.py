"""``custody dev`` for the length of a block."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.db.embedded_server import alive
from tests.eventually import soon
from tests.forked import AnyProcess, Forked
from tests.leaks import remember
from tests.servers import coverage_environ, log_file, started


@dataclass(frozen=True)
class Dev:
    """A running ``custody dev``.

    Attributes:
        banner: what it printed.
        postgres: the process id of its PostgreSQL.
        log: what it wrote to standard error.
    """

    process: AnyProcess
    banner: str
    postgres: int
    log: Path

    def shown(self, pattern: str) -> str:
        """Return the first group of a pattern, which some line of the banner begins with."""
        found = re.search(f"^{pattern}", self.banner, re.MULTILINE)
        assert found is not None, self.banner
        return found[1]

    @property
    def token(self) -> str:
        """Alice's token."""
        return self.shown(r"(eyJ[\w-]+\.[\w-]+\.[\w-]+)$")

    @property
    def curl(self) -> str:
        """The line to paste."""
        return self.shown("(curl .*)$")

    def address(self, name: str) -> str:
        """An address by its name in the banner."""
        return self.shown(rf"  {name} +(\S+)$")

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal, and return the exit code when it and its PostgreSQL are gone."""
        self.process.send_signal(number)
        code = self.process.wait(30)
        assert not alive(self.postgres)
        return code


def environ_for(**extra: str) -> dict[str, str]:
    ports = {"CUSTODY_LISTEN": "127.0.0.1:0", "CUSTODY_ADMIN_LISTEN": "127.0.0.1:0"}
    return {"PATH": os.environ["PATH"], **coverage_environ(), **ports, **extra}


@contextmanager
def running(data: Path, *command: str, option: str = "", **extra: str) -> Iterator[Dev]:
    """Run ``custody dev`` until the block ends; without a command it is forked, not executed."""
    out, log = log_file("dev-out").with_suffix(".out"), log_file("dev")
    out.touch()
    words, environ = ("dev", "--data", str(data), *option.split()), environ_for(**extra)
    process: AnyProcess
    if command:
        process = started(*command, *words, environ=environ, out=out, err=log)
    else:
        process = Forked("custody", *words, environ=environ, out=out, err=log)
    try:
        soon(lambda: "\nCtrl-C" in out.read_text() or process.poll() is not None, 100)
        assert process.poll() is None, f"it ended with {process.wait()}: {log.read_text()}"
        started_as = (data / "data/postmaster.pid").read_text()
        dev = Dev(process, out.read_text(), int(started_as.split()[0]), log)
        remember(dev.token)
        assert alive(dev.postgres)
        yield dev
    finally:
        process.kill()
        process.wait()
        out.unlink()
        with suppress(NameError):
            soon(lambda: not alive(dev.postgres), 30)
        with suppress(OSError):
            shutil.copy(data / "postgres.log", log.with_suffix(".postgres.log"))
