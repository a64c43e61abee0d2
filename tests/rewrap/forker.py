"""Workers to be killed: processes forked from one that has loaded everything already.

Each line on standard input is a worker's URL, batch and rate, as JSON; its process id is printed.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from custody.db.engine import Dsn, create_engine
from custody.ops.logging import configure
from custody.rewrap.options import Options
from custody.rewrap.worker import RewrapRun
from custody.settings import LogFormat, LogLevel
from tests.leaks import LOGS
from tests.rewrap.kit import keyring
from tests.servers import ROOT


class Forker:
    """The process that forks them."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def start(self, url: str, *, batch: int, rate: int) -> int:
        """Start a worker, and return its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([url, batch, rate]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def forker() -> Iterator[Forker]:
    """Run it for the length of the block."""
    with (LOGS / f"forker-{os.getpid()}.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.rewrap.forker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
        )
    with process:
        yield Forker(process)
        assert process.stdin is not None
        process.stdin.close()


def kill(pid: int) -> bool:
    """Kill a worker at once; returns whether it was still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


async def _work(url: str, batch: int, rate: int) -> None:
    engine = create_engine(Dsn(url), pool_size=4)
    await RewrapRun(engine, keyring(), Options(batch=batch, rate=rate)).run()
    await engine.dispose()


def _main() -> None:
    configure(LogLevel.DEBUG, LogFormat.JSON, sys.stderr)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                asyncio.run(_work(*json.loads(line)))
                code = 0
            finally:
                os._exit(code)
        print(pid, flush=True)  # noqa: T201


if __name__ == "__main__":
    _main()
