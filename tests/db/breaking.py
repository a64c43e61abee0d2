"""Breaks a PostgreSQL of a test's own: stops it dead, kills it.

Or a database: forgets its KEKs, past what forbids that; makes auth.users somebody else's.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from custody.development.postgres import EmbeddedPostgres
from tests.db.embedded_server import pid_of, query
from tests.servers import Database, start_on

# Makes auth.users a table as somebody else would have made it before custody came.
GIVE_USERS_AWAY = """
DROP POLICY users_own_row ON auth.users;
ALTER TABLE auth.users NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
REVOKE INSERT ON auth.users FROM custody_app;
COMMENT ON TABLE auth.users IS NULL;
UPDATE auth.custody_marks SET ours = false WHERE table_name = 'users';
"""


def signal_all(server: EmbeddedPostgres, number: signal.Signals) -> None:
    """Signal every process, the postmaster first, so that it makes no more of them."""
    postmaster = pid_of(server)
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for pid in (postmaster, *map(int, children)):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def freeze(server: EmbeddedPostgres) -> None:
    """Stop every process where it stands; connections stay open and nobody answers."""
    signal_all(server, signal.SIGSTOP)


@contextmanager
def thawed(server: EmbeddedPostgres) -> Iterator[None]:
    """Whatever has frozen the server in the block, let it go on after it."""
    try:
        yield
    finally:
        signal_all(server, signal.SIGCONT)


@asynccontextmanager
async def frozen(server: EmbeddedPostgres) -> AsyncIterator[None]:
    """Freeze the server for the length of the block."""
    with thawed(server):
        freeze(server)
        yield


@asynccontextmanager
async def killed(server: EmbeddedPostgres) -> AsyncIterator[int]:
    """Kill every process, as a power cut does; after the block it is back on the port yielded."""
    # A server of tests does not write through at commit.
    await asyncio.to_thread(query, server, "CHECKPOINT")
    port = server.port
    signal_all(server, signal.SIGKILL)
    await asyncio.to_thread(server.stop)
    server._port = port  # its URLs stay what they were
    try:
        yield port
    finally:
        await asyncio.to_thread(start_on, server, port)


async def forget_keks(database: Database) -> None:
    """Empty the registry of KEKs, as whoever may change the schema could."""
    await database.execute(
        "ALTER TABLE auth.encryption_keks DISABLE TRIGGER USER;"
        "DELETE FROM auth.encryption_keks;"
        "ALTER TABLE auth.encryption_keks ENABLE TRIGGER USER"
    )
