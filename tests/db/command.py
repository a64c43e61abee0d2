"""Runs ``custody`` as an operator does: a process of its own, with nothing but given variables."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.forked import Forked


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
    with tempfile.TemporaryDirectory(prefix="custody-test-") as folder:
        Path(folder).chmod(0o700)  # whatever the umask is
        out, err = Path(folder, "out"), Path(folder, "err")
        variables = {"PATH": os.environ["PATH"], **environ}
        process = Forked("custody", *arguments, environ=variables, out=out, err=err)
        try:
            code = process.wait(seconds)
        finally:
            process.kill()
        done = Done(code, out.read_text("utf-8"), err.read_text("utf-8"))
    assert "Traceback" not in done.err, done.err
    return done
