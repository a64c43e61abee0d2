"""A real PgBouncer in front of a PostgreSQL of tests."""

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, run
from urllib.parse import urlsplit

import pytest

from custody.development.postgres import EmbeddedPostgres
from custody.development.postgres.user import choose_user
from tests.ports import free_port
from tests.servers import Database

_ROLES = ("postgres", "custody_owner", "custody_app", "custody_rewrap")
_START_SECONDS = 30


@dataclass(frozen=True)
class PgBouncer:
    """A pooler that runs."""

    server: EmbeddedPostgres
    port: int

    def url(self, database: Database, role: str) -> str:
        """Return the URL of a role by way of the pooler."""
        direct = f"127.0.0.1:{self.server.port}"
        return database.url(role).replace(direct, f"127.0.0.1:{self.port}")


def _find() -> str | None:
    chosen = os.environ.get("CUSTODY_TEST_PGBOUNCER")
    return chosen or shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


def binary() -> str:
    """Return the path of PgBouncer's own program; where there is none, the test is skipped.

    CUSTODY_TEST_PGBOUNCER names another one than Debian's.
    """
    found = _find()
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("pgbouncer is not installed")
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer")
    return found


def keeps_statements() -> bool:
    """Say whether it can keep prepared statements, which it can from 1.21 on."""
    found = _find()
    if found is None:
        return False
    said = run([found, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor, *_ = said.split()[1].split(".")
    return (int(major), int(minor)) >= (1, 21)


@contextmanager
def pgbouncer(server: EmbeddedPostgres, **options: str) -> Iterator[PgBouncer]:
    """Run a PgBouncer for the length of the block; it refuses root, as the server does.

    Args:
        server: what it stands in front of.
        options: of its configuration file.
    """
    user = choose_user()
    folder = Path(tempfile.mkdtemp(prefix="custody-pgbouncer-"))
    port = free_port()
    chosen = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": f"{folder}/users",
        "pool_mode": "transaction",
        **({"max_prepared_statements": "0"} if keeps_statements() else {}),
        "default_pool_size": "8",
        "max_client_conn": "300",
        "logfile": f"{folder}/log",
        **options,
    }
    lines = [f"{name} = {value}" for name, value in chosen.items()]
    target = f"* = host=127.0.0.1 port={server.port}"
    (folder / "ini").write_text("\n".join(["[databases]", target, "[pgbouncer]", *lines, ""]))
    passwords = {role: urlsplit(server.url(role)).password for role in _ROLES}
    (folder / "users").write_text(
        "".join(f'"{role}" "{password}"\n' for role, password in passwords.items())
    )
    for path in (folder, folder / "ini", folder / "users"):
        if user.uid is not None:
            os.chown(path, user.uid, user.gid or 0)
        path.chmod(0o700 if path is folder else 0o600)
    process = user.spawn([binary(), "-q", f"{folder}/ini"], stdin=PIPE, output=-3)
    try:
        _wait_for(port, folder / "log")
        yield PgBouncer(server, port)
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(f"PgBouncer did not start: {log.read_text() if log.exists() else ''}")
