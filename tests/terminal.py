"""Commands on a terminal, as their operator sees them."""

import os
import pty
import threading
from pathlib import Path

from tests.forked import Forked


def on_a_terminal(environ: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its exit code and all it has drawn."""
    terminal, theirs = pty.openpty()
    there = Path(os.ttyname(theirs))
    process = Forked("custody", *arguments, environ=environ, out=there, err=there)

    def left() -> None:
        # Not earlier: a terminal that nobody has open is no more.
        try:
            process.wait(30)
        finally:
            os.close(theirs)

    waiting = threading.Thread(target=left)
    waiting.start()
    drawn = b""
    try:
        while piece := os.read(terminal, 4096):
            drawn += piece
    except OSError:
        pass  # how a terminal tells that nobody is there any more
    finally:
        waiting.join()
        os.close(terminal)
    return process.wait(30), drawn.decode()
