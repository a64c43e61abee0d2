"""A streaming standby of a server of the tests, to be promoted as a failover does it."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from custody.development.postgres import EmbeddedPostgres, cluster
from custody.development.postgres.user import choose_user
from tests.ports import free_port


async def eventually(true: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    """Wait until it is true."""
    until = time.monotonic() + seconds
    while not await true():
        assert time.monotonic() < until, "waited in vain"
        await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Standby:
    """A server that follows a primary.

    Args:
        primary: whom.
        port: where it answers.
    """

    primary: EmbeddedPostgres
    port: int

    def url(self, role: str, database: str) -> str:
        """Return the URL of a role here."""
        there = self.primary.url(role, database)
        return there.replace(f":{self.primary.port}/", f":{self.port}/")

    async def value(self, sql: str) -> object:
        """Ask for one value as superuser."""
        connection = await asyncpg.connect(self.url("postgres", "postgres"))
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    async def wait_for(self, sql: str) -> None:
        """Wait until it answers with true."""
        await eventually(lambda: self._answers(sql))

    async def _answers(self, sql: str) -> bool:
        try:
            return bool(await self.value(sql))
        except (OSError, asyncpg.PostgresError):
            return False  # it is starting up


@contextmanager
def standby_of(primary: EmbeddedPostgres, folder: Path) -> Iterator[Standby]:
    """Copy a primary and follow it for the length of the block.

    Args:
        primary: it must take replication connections of postgres.
        folder: an empty one that the server's user may write to.
    """
    user, port, log = choose_user(), free_port(), folder / "postgres.log"
    login = f"host=127.0.0.1 port={primary.port} user=postgres passfile={folder}/pgpass"
    words = (primary.folder / "pgpass").read_text()
    cluster.write_private(folder / "pgpass", words, user)
    copy = ["pg_basebackup", "-D", str(folder / "data"), "-d", login, "-R", "-c", "fast", "-N"]
    copied = user.run([str(primary.bin / copy[0]), *copy[1:]], seconds=60)
    assert copied.returncode == 0, copied.stderr
    rules = folder / "pg_hba.conf"
    rules.write_text((primary.folder / "pg_hba.conf").read_text())
    rules.chmod(0o644)
    settings = cluster.settings(folder, port, durable=False)
    with log.open("wb") as output:
        server = user.spawn(
            [str(primary.bin / "postgres"), "-D", str(folder / "data"), *settings],
            stdin=subprocess.DEVNULL,
            output=output.fileno(),
        )
    try:
        yield Standby(primary, port)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


async def take_standbys(primary: EmbeddedPostgres) -> None:
    """Have a primary take replication connections."""
    with (primary.folder / "pg_hba.conf").open("a") as rules:
        rules.write("host replication postgres 127.0.0.1/32 scram-sha-256\n")
    connection = await asyncpg.connect(primary.url("postgres", "postgres"))
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
