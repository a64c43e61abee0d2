"""Commands on a terminal, as their operator sees them."""

import contextlib
import os
import pty
import select
from pathlib import Path

from tests.forked import Forked


def on_a_terminal(environ: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its exit code and all it has drawn."""
    terminal, theirs = pty.openpty()
    there = Path(os.ttyname(theirs))
    process = Forked("custody", *arguments, environ=environ, out=there, err=there)
    assert select.select([terminal], [], [], 30)[0], "nothing is drawn"
    # Not earlier: a terminal that nobody has open is no more.
    os.close(theirs)
    drawn = b""
    # How a terminal tells that nobody is there any more.
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 4096):
            drawn += piece
    os.close(terminal)
    return process.wait(30), drawn.decode()
