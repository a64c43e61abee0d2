"""A streaming standby of a server of the tests, to be promoted as a failover does it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from custody.development.postgres import EmbeddedPostgres
from custody.development.postgres import server as embedded
from custody.development.postgres.lock import pid_file
from custody.development.postgres.user import choose_user
from tests.db.embedded_server import open_folder, query
from tests.ports import free_port
from tests.servers import start_on


@contextmanager
def standby_of(primary: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """Copy a server and follow it for the length of the block."""
    with (primary.folder / "pg_hba.conf").open("a") as rules:
        rules.write("host replication postgres 127.0.0.1/32 scram-sha-256\n")
    query(primary, "SELECT pg_reload_conf()")
    with open_folder() as folder, pytest.MonkeyPatch.context() as patch:
        _copy(primary, folder)
        # What the server writes there once it answers, and is no primary.
        patch.setattr(
            embedded,
            "pid_file",
            lambda at: [line.replace("standby", "ready") for line in pid_file(at)],
        )
        standby = EmbeddedPostgres(folder, durable=False)
        start_on(standby, free_port())
        try:
            yield standby
        finally:
            standby.stop()


def _copy(primary: EmbeddedPostgres, folder: Path) -> None:
    user, data = choose_user(), folder / "data"
    data.mkdir(mode=0o700)
    if user.uid is not None:
        shutil.chown(data, user.uid, user.gid)
    shutil.copy(primary.folder / "pgpass", folder)
    (folder / "lock").touch()  # as if it had been made there
    from_there = f"host=127.0.0.1 port={primary.port} user=postgres"
    copied = user.run(
        [
            str(primary.bin / "pg_basebackup"),
            *("-D", str(data), "-d", from_there, "-R", "-c", "fast", "-N"),
        ],
        seconds=60,
        variables={"PGPASSWORD": urlsplit(primary.url("postgres")).password or ""},
    )
    assert copied.returncode == 0, copied.stderr
