"""A real PgBouncer in front of a PostgreSQL of tests."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, run
from typing import TypeAlias
from urllib.parse import urlsplit

import pytest

from custody.development.postgres import EmbeddedPostgres, cluster
from custody.development.postgres.cluster import ROLES
from custody.development.postgres.user import choose_user
from tests.db.embedded_server import open_folder
from tests.eventually import soon
from tests.ports import free_port
from tests.servers import Database

_INI = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 8
max_client_conn = 300
"""

UrlOf: TypeAlias = Callable[[Database, str], str]


def _program() -> str | None:
    chosen = os.environ.get("CUSTODY_TEST_PGBOUNCER")
    return chosen or shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


def binary() -> str:
    """Return the path of PgBouncer's own program; where there is none, the test is skipped.

    CUSTODY_TEST_PGBOUNCER names another one than Debian's.
    """
    found = _program()
    if found is None:
        lacking = pytest.fail if os.environ.get("CI") else pytest.skip
        lacking("pgbouncer is not installed: apt-get install pgbouncer")
    return found


def keeps_statements() -> bool:
    """Say whether it can keep prepared statements, which it can from 1.21 on."""
    found = _program()
    if found is None:
        return False
    said = run([found, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor, *_ = said.split()[1].split(".")
    return (int(major), int(minor)) >= (1, 21)


@contextmanager
def pgbouncer(server: EmbeddedPostgres, **options: str) -> Iterator[UrlOf]:
    """Run a PgBouncer for the length of the block; it refuses root, as the server does.

    Args:
        server: what it stands in front of.
        options: of its configuration file.

    Yields:
        What gives the URL of a role by way of it.
    """
    user, port = choose_user(), free_port()
    options = {"max_prepared_statements": "0"} | options if keeps_statements() else options
    more = "\n".join(f"{name} = {value}" for name, value in options.items())
    words = {role: urlsplit(server.url(role)).password for role in ROLES}
    users = "".join(f'"{role}" "{word}"\n' for role, word in words.items())
    with open_folder() as folder:
        ini = _INI.format(server=server.port, port=port, folder=folder) + more
        cluster.write_private(folder / "ini", ini, user)
        cluster.write_private(folder / "users", users, user)
        with (folder / "log").open("wb") as log:
            command = [binary(), f"{folder}/ini"]
            process = user.spawn(command, stdin=DEVNULL, output=log.fileno())
        try:
            soon(lambda: _answers(port, folder / "log"))
            yield lambda database, role: database.url(role).replace(f":{server.port}/", f":{port}/")
        finally:
            process.kill()
            process.wait()


def _answers(port: int, log: Path) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError as error:
        raise AssertionError(f"PgBouncer does not answer: {log.read_text()}") from error
    return True
