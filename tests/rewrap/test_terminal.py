"""``custody rewrap run`` on a terminal, as its operator sees it."""

import asyncio
import os
import pty
import threading
from pathlib import Path

from tests.forked import Forked
from tests.rewrap.kit import KEKS, NEW, OLD, fill
from tests.servers import Database


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


async def test_a_bar_with_rate_and_time_left(database: Database) -> None:
    await fill(database, 400)
    environ = {
        "PATH": os.environ["PATH"],
        "TERM": "xterm-256color",
        "COLUMNS": "120",
        "CUSTODY_REWRAP_DATABASE_URL": database.url("custody_rewrap"),
        "CUSTODY_KEK": NEW,
        "CUSTODY_OLD_KEKS": f"{OLD}?id=env-v1",
        **KEKS,
    }
    arguments = "rewrap", "run", "--batch", "100", "--rate", "200"
    code, drawn = await asyncio.to_thread(on_a_terminal, environ, *arguments)
    assert code == 0, drawn
    assert "Traceback" not in drawn
    assert "to env-v2" in drawn
    assert "400/400" in drawn
    assert "rows/s" in drawn
    assert "run 1 to env-v2: 400 re-wrapped" in drawn
