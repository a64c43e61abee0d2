"""Breaks a PostgreSQL of a test's own: stops it dead, kills it.

Or a database: forgets its KEKs, past what forbids that; makes auth.users somebody else's.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from custody.development.postgres import EmbeddedPostgres
from tests.db.embedded_server import pid_of, query
from tests.servers import Database


def processes(server: EmbeddedPostgres) -> list[int]:
    """Return the postmaster and its children."""
    postmaster = pid_of(server)
    found = [postmaster]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, _, rest = stat.read_text().partition(" (")
            if int(rest.rpartition(") ")[2].split()[1]) == postmaster:
                found.append(int(pid))
    return found


def signal_all(server: EmbeddedPostgres, number: signal.Signals) -> None:
    """Signal every process, the postmaster first, so that it makes no more of them."""
    for pid in processes(server):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def freeze(server: EmbeddedPostgres) -> None:
    """Stop every process where it stands; connections stay open and nobody answers."""
    signal_all(server, signal.SIGSTOP)


def thaw(server: EmbeddedPostgres) -> None:
    """Let a frozen server go on."""
    signal_all(server, signal.SIGCONT)


@contextmanager
def frozen(server: EmbeddedPostgres) -> Iterator[None]:
    """Freeze the server for the length of the block."""
    freeze(server)
    try:
        yield
    finally:
        thaw(server)


def kill(server: EmbeddedPostgres) -> int:
    """Kill every process, as a power cut does; returns the port it had."""
    query(server, "CHECKPOINT")  # a server of tests does not write through at commit
    port = server.port
    signal_all(server, signal.SIGKILL)
    server.stop()
    return port


async def forget_keks(database: Database) -> None:
    """Empty the registry of KEKs, as whoever may change the schema could."""
    await database.execute(
        "ALTER TABLE auth.encryption_keks DISABLE TRIGGER USER;"
        "DELETE FROM auth.encryption_keks;"
        "ALTER TABLE auth.encryption_keks ENABLE TRIGGER USER"
    )


async def give_users_away(database: Database) -> None:
    """Make auth.users a table as somebody else would have made it before custody came."""
    await database.execute(
        "DROP POLICY users_own_row ON auth.users;"
        "ALTER TABLE auth.users NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;"
        "REVOKE INSERT ON auth.users FROM custody_app;"
        "COMMENT ON TABLE auth.users IS NULL;"
        "UPDATE auth.custody_marks SET ours = false WHERE table_name = 'users'"
    )
