"""What the tests of the embedded PostgreSQL share."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from custody.development.postgres import EmbeddedPostgres
from tests.memory import memory

REPOSITORY = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root has to run the server as another user"
)
needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads Linux's /proc")


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that everyone may enter, as the server's user must; tmp_path is closed."""
    path = Path(tempfile.mkdtemp(prefix="custody-embedded-", dir=memory() or "/tmp")).resolve()
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def query(server: EmbeddedPostgres, sql: str, role: str = "postgres", url: str = "") -> str:
    command = [str(server.bin / "psql"), "-XAtqc", sql, url or server.url(role)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def pid_of(server: EmbeddedPostgres) -> int:
    return int((server.folder / "data" / "postmaster.pid").read_text().split("\n", 1)[0])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A zombie has ended; where PID 1 is no real init it stays one for ever.
        return ") Z " not in Path("/proc", str(pid), "stat").read_text()
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self").exists()
