"""Runs ``custody`` as an operator does: a process of its own, with nothing but given variables."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from tests.servers import ROOT, coverage_environ


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on standard error that is no log line."""
        lines = [line for line in self.err.splitlines() if not line.startswith("{")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("custody: ")
        return lines[0].removeprefix("custody: ")


def custody(environ: Mapping[str, str], *arguments: str, seconds: float = 60) -> Done:
    """Run a command to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "custody", *arguments],
        env={"PATH": os.environ["PATH"], **coverage_environ(), **environ},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        cwd=ROOT,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)
