"""The how-to for backup and restore, as it stands: from one server to another that has nothing."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from custody.development.postgres import EmbeddedPostgres
from tests.client import Client, client_session
from tests.db.embedded_server import open_folder, query
from tests.e2e.browser import encode
from tests.eventually import eventually
from tests.ports import free_port
from tests.servers import Database, daemon_here, start_on
from tests.systemd.howto import sections
from tests.tokens import Issuer

PAGE = "back-up-and-restore"
COMMANDS, STATEMENTS, SHOWN = (sections(PAGE, kind) for kind in ("sh", "sql", "text"))
SEALED = (
    "SELECT (SELECT max(number) FROM auth.encryption_vault_audit)"
    " = (SELECT max(last_row) FROM auth.encryption_audit_checkpoints)"
)
# What the server of the tests has made for itself: the page begins with a server that has nothing.
OURS = ("custody_owner", "custody_app", "custody_rewrap")


@contextmanager
def empty_server() -> Iterator[EmbeddedPostgres]:
    with open_folder() as folder:
        server = EmbeddedPostgres(folder / "pg", durable=False)
        start_on(server, free_port())
        try:
            query(server, "DROP DATABASE custody", url=server.url("postgres", "postgres"))
            for role in OURS:
                query(server, f"DROP ROLE IF EXISTS {role}", url=server.url("postgres", "postgres"))
            yield server
        finally:
            server.stop()


@dataclass(frozen=True)
class Shell:
    """Runs blocks of the page: the old server is at its port 5432, the new one at 5433."""

    old: Database
    new: EmbeddedPostgres
    folder: Path
    environ: dict[str, str]

    def here(self, text: str) -> str:
        """Return a text of the page with the names of this test."""
        text = text.replace(
            "127.0.0.1:5432/custody", f"127.0.0.1:{self.old.server.port}/{self.old.name}"
        )
        text = text.replace("/var/lib/custody", str(self.folder))
        return text.replace("127.0.0.1:5433/", f"127.0.0.1:{self.new.port}/")

    def run(self, block: str) -> str:
        """Run commands; return what they print."""
        custody = f"'{sys.executable}' -m custody"
        script = "set -euo pipefail\n" + re.sub(
            r"(?m)^custody |(?<= )custody (?=migrate|users)", f"{custody} ", self.here(block)
        )
        done = subprocess.run(
            ["bash", "-c", script],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environ,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, script + done.stdout + done.stderr
        return done.stdout

    async def commands(self, *blocks: str) -> str:
        """Run blocks in one shell; return what they print."""
        return await asyncio.to_thread(self.run, "\n".join(blocks))

    def administer(self, server: EmbeddedPostgres, block: str) -> None:
        """Run statements as a superuser."""
        url = server.url("postgres", "postgres")
        for statement in block.split(";\n"):
            query(server, statement, url=url)


async def make_users(database: Database, issuer: Issuer, folder: Path) -> dict[str, object]:
    """Make users of all kinds; return what each gets, once the audit is under a checkpoint."""
    async with (
        daemon_here(database, issuer, folder, AUDIT_SEAL_INTERVAL="1") as daemon,
        client_session() as session,
    ):
        for user in ("alice", "bob", "carol", "erin"):
            assert (await Client(daemon, session, user).init()).status == 200
        carol, recovery = Client(daemon, session, "carol"), (encode(bytes(48)), encode(bytes(12)))
        assert (await carol.set_recovery(*recovery)).status == 200
        assert (await carol.enable_zk()).status == 200
        assert (await Client(daemon, session, "bob").rotate()).status == 200
        got = {
            user: (await Client(daemon, session, user).key()).json
            for user in ("alice", "bob", "carol")
        }
        await eventually(lambda: database.value(SEALED))
        return got


@pytest.mark.prove
async def test_every_command_of_the_page(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    got = await make_users(database, issuer, tmp_path)
    with empty_server() as server:
        passwords = tmp_path / "pgpass"
        passwords.write_text(
            "*:*:*:custody_backup:change-me-backup\n*:*:*:custody_owner:change-me-owner\n"
        )
        passwords.chmod(0o600)
        environ = {
            "PATH": f"{server.bin}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PGPASSFILE": str(passwords),
            "CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner"),
            "MANA_AUTH_KEK": "TUlEREFZUyBIRUFSVEJFQVQgT0YgQSBURVNUIEtFSyE=",
        }
        shell = Shell(database, server, tmp_path, environ)
        (role,) = STATEMENTS["A role that may dump"]
        shell.administer(database.server, role)
        try:
            await shell.commands(*COMMANDS["Back up"])
        finally:
            await database.execute("DROP ROLE custody_backup")
        record = tmp_path / "erasures.jsonl"
        record.touch(0o600)
        await shell.commands(f"CUSTODY_ERASURE_RECORD={record} custody users erase erin --yes")
        (roles,) = STATEMENTS["Restore into an empty server"]
        shell.administer(server, roles)
        assert "the database is up to date" in await shell.commands(
            *COMMANDS["Restore into an empty server"]
        )
        said = await shell.commands(*COMMANDS["Verify"])
        assert shape(said) == shape(SHOWN["Verify"][0]), said
        (verifier,) = STATEMENTS["Every week, on a standby"]
        shell.administer(server, verifier)
        place = f"127.0.0.1:{server.port}/custody"
        url = f"postgresql://custody_verifier:change-me-verifier@{place}"
        verified = shell.run(
            f"CUSTODY_AUDIT_DATABASE_URL={url}\nexport CUSTODY_AUDIT_DATABASE_URL\ncustody verify"
        )
        assert "all of them open" in verified
        url = f"postgresql://custody_daemon:change-me-daemon@{place}"
        restored = Database(server, "custody")
        replay, serve = COMMANDS["Erase again, and serve"]
        restored_owner = COMMANDS["Verify"][0].splitlines()[0]
        said = await shell.commands(restored_owner, replay)
        assert (
            said == "1 of 1 erasures on record were made again: 1 vaults and 1 users were removed\n"
        )
        async with (
            daemon_here(
                restored, issuer, tmp_path, DATABASE_URL=url, ERASURE_RECORD=str(record)
            ) as again,
            client_session() as session,
        ):
            assert (await Client(again, session, "erin").key()).code == "VAULT_NOT_INITIALISED"
            for user, key in got.items():
                assert (await Client(again, session, user).key()).json == key
            assert (await Client(again, session, "dave").init()).status == 200
            environ |= again.settings
            said = await shell.commands(serve)
        assert "ok      database: schema and role keep their promises" in said


def shape(text: str) -> list[str]:
    """Return lines without their numbers."""
    return [re.sub(r"\d+", "N", line) for line in text.splitlines()]
