"""What the benchmarks run on: a durable PostgreSQL, a load generator, databases with users."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from custody.development.postgres import EmbeddedPostgres
from custody.development.postgres.lock import pid_file
from tests.bench.load import CompiledGenerator, Generator, LoadError
from tests.bench.load_python import PythonGenerator
from tests.bench.processes import machine
from tests.bench.users import Users, fill
from tests.servers import (
    Daemon,
    Database,
    daemon_beside,
    make_template,
    new_database,
    settings_for,
)
from tests.tokens import Issuer

_DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
_SHOWN = ("server_version", *_DURABLE, "wal_sync_method", "shared_buffers", "max_wal_size")


@dataclass(frozen=True)
class Stage:
    """Where benchmarks run.

    Args:
        folder: for everything.
        server: with the migrated template.
        server_pid: its first process.
        issuer: of tokens.
        generator: of load.
    """

    folder: Path
    server: EmbeddedPostgres
    server_pid: int
    issuer: Issuer
    generator: Generator

    @asynccontextmanager
    async def users(self, users: Users) -> AsyncIterator[Database]:
        """Make a database with these users for the length of the block."""
        async with new_database(self.server) as database:
            environ = settings_for(database, self.issuer, self.folder)
            await fill(database, users, environ)
            await database.execute("CHECKPOINT")
            yield database

    @contextmanager
    def daemon(self, database: Database, **settings: str) -> Iterator[Daemon]:
        """Run the daemon as it is by default: it logs a line for each request."""
        # Counted as by default, and never too many: a benchmark may have few users.
        shares = {"USER_CONCURRENCY": "1000", "RATE_LIMIT": "1000000"}
        settings = {"LOG_LEVEL": "info", **shares, **settings}
        with daemon_beside(database, self.issuer, self.folder, **settings) as running:
            yield running

    async def describe(self) -> dict[str, object]:
        """Say on what all was measured, and see that a commit is on disk.

        Raises:
            SystemExit: PostgreSQL does not write through.
        """
        async with new_database(self.server) as database, database.connect("custody_app") as held:
            settings = {
                name: await held.fetchval("SELECT current_setting($1)", name) for name in _SHOWN
            }
        if lax := [name for name in _DURABLE if settings[name] != "on"]:
            raise SystemExit(f"PostgreSQL is not durable: {', '.join(lax)}; no figure would count")
        return {
            **machine(),
            "python": sys.version.partition(" ")[0],
            "generator": self.generator.name,
            "postgresql": settings,
        }


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Set up what all benchmarks need, for the length of the block."""
    if sys.platform != "linux":
        raise SystemExit("the benchmarks run on Linux: they count CPU and memory from /proc")
    with _folders() as (folder, tools), EmbeddedPostgres(folder / "pg") as server:
        generator = await asyncio.to_thread(choose_generator, tools)
        await make_template(server)
        await asyncio.to_thread(server.grant_logins)
        pid = int(pid_file(server.folder)[0])
        yield Stage(folder, server, pid, Issuer(), generator)


@contextmanager
def _folders() -> Iterator[tuple[Path, Path]]:
    """Make a folder for everything, and one in it that is ours alone."""
    with tempfile.TemporaryDirectory(prefix="custody-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server's own user must reach it
        tools = folder / "tools"
        tools.mkdir(0o700)
        yield folder, tools


def choose_generator(folder: Path) -> Generator:
    """Return the best generator that works here, and say so where it is not ours in C."""
    try:
        return CompiledGenerator(folder)
    except LoadError as error:
        sys.stderr.write(f"load generator in Python, the figures are too low: {error}\n")
        return PythonGenerator()


def port_of(daemon: Daemon) -> int:
    """Return the port of the daemon's vault listener."""
    return int(daemon.base.split(":")[2].partition("/")[0])


def pid_of(daemon: Daemon) -> int:
    """Return the daemon's first process."""
    assert daemon.process is not None
    return daemon.process.pid
