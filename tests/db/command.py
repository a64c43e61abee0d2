"""Runs ``custody`` as an operator does: a process of its own, with nothing but given variables."""

import os
import shutil
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


class Command:
    """A command that runs, to be ended by :meth:`end`.

    Args:
        environ: all its variables but PATH.
        arguments: what comes after ``custody``.
    """

    def __init__(self, environ: Mapping[str, str], *arguments: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="custody-test-"))
        self._folder.chmod(0o700)  # whatever the umask is
        variables = {"PATH": os.environ["PATH"], **environ}
        files = {name: self._folder / name for name in ("out", "err")}
        for path in files.values():
            path.touch()  # one that is killed at once has opened none
        self.process = Forked("custody", *arguments, environ=variables, **files)

    def end(self, seconds: float = 60) -> Done:
        """Wait until it has ended."""
        try:
            code = self.process.wait(seconds)
            out, err = ((self._folder / name).read_text("utf-8") for name in ("out", "err"))
        finally:
            self.process.kill()
            shutil.rmtree(self._folder)
        assert "Traceback" not in err, err
        return Done(code, out, err)


def custody(environ: Mapping[str, str], *arguments: str, seconds: float = 60) -> Done:
    """Run a command to its end."""
    return Command(environ, *arguments).end(seconds)
