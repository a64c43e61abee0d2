"""Real servers for tests: a PostgreSQL per test process, daemons in this process or beside it."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from custody.app import running
from custody.db.engine import Dsn
from custody.db.migrate import migrate
from custody.development.postgres import EmbeddedPostgres, cluster
from custody.development.postgres import server as embedded
from custody.http.routes import BASE_PATH
from custody.settings import load
from custody.sockets import site
from tests.eventually import soon
from tests.forked import AnyProcess, Forked
from tests.leaks import LOGS, remember
from tests.memory import memory
from tests.ports import free_port
from tests.tokens import Issuer

TEMPLATE = "custody_template"
_SHORT_STOP_SECONDS = 0.05
_VAULT = "SELECT to_jsonb(vault)::text FROM auth.encryption_vaults AS vault WHERE user_id = $1"
_ROWS = (
    "SELECT to_jsonb(vault)::text AS row FROM auth.encryption_vaults AS vault"
    " UNION ALL SELECT to_jsonb(event)::text FROM auth.encryption_vault_audit AS event"
    " UNION ALL SELECT to_jsonb(one)::text FROM auth.users AS one ORDER BY 1"
)
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Database:
    """A database of its own, cloned from the migrated template.

    Connect as postgres (superuser), custody_owner, custody_app or custody_rewrap.
    """

    server: EmbeddedPostgres
    name: str
    superuser: "asyncpg.Connection[Any] | None" = None

    def url(self, role: str) -> str:
        """Return the URL of a role."""
        return self.server.url(role, self.name)

    def through(self, port: int) -> str:
        """Return the URL of custody_app by way of a proxy."""
        return self.url("custody_app").replace(f":{self.server.port}/", f":{port}/")

    @asynccontextmanager
    async def connect(self, role: str = "postgres") -> AsyncIterator["asyncpg.Connection[Any]"]:
        """Connect as a role for the length of the block; a superuser that is there serves again."""
        if self.superuser and role == "postgres":
            yield self.superuser
            return
        connection = await asyncpg.connect(self.url(role))
        try:
            yield connection
        finally:
            await connection.close()

    async def fetch(self, sql: str, *parameters: Any) -> list[Any]:
        """Ask as superuser, past row-level security."""
        async with self.connect() as connection:
            return list(await connection.fetch(sql, *parameters))

    async def value(self, sql: str, *parameters: Any) -> Any:
        """Ask for one value as superuser."""
        async with self.connect() as connection:
            return await connection.fetchval(sql, *parameters)

    async def execute(self, sql: str, *parameters: Any) -> None:
        """Run as superuser."""
        async with self.connect() as connection:
            await connection.execute(sql, *parameters)

    async def audit(self, user_id: str) -> list[tuple[str, str | None, int]]:
        """Return a user's audit rows in order: action, context, status."""
        rows = await self.fetch(
            "SELECT action, context, status FROM auth.encryption_vault_audit"
            " WHERE user_id = $1 ORDER BY created_at, id",
            user_id,
        )
        return [(row["action"], row["context"], row["status"]) for row in rows]

    async def vault(self, user_id: str) -> dict[str, Any]:
        """Return a user's row; nothing of it where there is none."""
        return dict(json.loads(await self.value(_VAULT, user_id) or "{}"))

    async def contents(self) -> list[str]:
        """Return all rows that a request could change: vaults, audit and users."""
        return [row["row"] for row in await self.fetch(_ROWS)]

    def tool(
        self, program: str, role: str, *arguments: str, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a client program of PostgreSQL as a role; the password travels in a file."""
        here = ("-h", "127.0.0.1", "-p", str(self.server.port), "-U", role, "-d", self.name)
        return subprocess.run(
            [str(self.server.bin / program), *here, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PGPASSFILE": str(self.server.folder / "pgpass"), "PATH": os.environ["PATH"]},
        )

    def psql(
        self, role: str, *arguments: str, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run psql as a role."""
        return self.tool("psql", role, "-X", "-v", "ON_ERROR_STOP=1", *arguments, text=text)


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL whose template database is migrated."""
    # Not pytest's tmp_path: under root the server's own user could not reach it.
    parent = Path(tempfile.mkdtemp(prefix="custody-test-", dir=memory()))
    parent.chmod(0o755)
    try:
        server = EmbeddedPostgres(parent / "pg", durable=durable)
        # Nobody else gets its port while it is down.
        start_on(server, free_port())
        try:
            asyncio.run(make_template(server))
            server.grant_logins()
            asyncio.run(shorten_logins(server))
            yield server
            shutil.copy(server.folder / "postgres.log", log_file("postgres"))
        finally:
            server.stop()
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def start_on(server: EmbeddedPostgres, port: int) -> None:
    """Start a server on a port that is chosen here, where clients look for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "_free_port", lambda: port)
        if binaries := os.environ.get("CUSTODY_TEST_POSTGRES"):  # tests.postgres_majors
            patch.setattr(embedded, "find_binaries", lambda _folder, _user: Path(binaries))
        server.start()


async def shorten_logins(server: EmbeddedPostgres) -> None:
    """Store the same passwords with one round of hashing: tests log in by the ten thousand.

    The 4096 rounds of PostgreSQL slow down whoever guesses; these passwords are random.
    """
    admin = await asyncpg.connect(server.url("postgres", "postgres"))
    for role in cluster.ROLES:
        password = urlsplit(server.url(role)).password or ""
        await admin.execute(f"ALTER ROLE {role} PASSWORD '{_verifier(password)}'")
    await admin.close()


def _verifier(password: str) -> str:
    """Return what PostgreSQL keeps of a password, after one round (RFC 5802, section 3).

    Only since 16 it has a setting for them.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    kept = (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))
    return "SCRAM-SHA-256$1:{}${}:{}".format(*(base64.b64encode(one).decode() for one in kept))


async def make_template(server: EmbeddedPostgres) -> None:
    """Make the migrated database that all others are cloned from."""
    admin = await asyncpg.connect(server.url("postgres", "postgres"))
    await admin.execute(f"CREATE DATABASE {TEMPLATE} OWNER custody_owner")
    await admin.close()
    await migrate(Dsn(server.url("custody_owner", TEMPLATE)))


@asynccontextmanager
async def new_database(
    server: EmbeddedPostgres, template: str = TEMPLATE
) -> AsyncIterator[Database]:
    """Clone a database for the length of the block."""
    name = f"test_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(server.url("postgres", "postgres"))
    # Copied as files: by way of the log, as is the default since 15, it would be written twice.
    as_files = "STRATEGY file_copy" if admin.get_server_version().major > 14 else ""
    how = f"TEMPLATE {template} {as_files} OWNER custody_owner"
    await admin.execute(f"CREATE DATABASE {name} {how}")
    try:
        yield Database(server, name)
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()


@dataclass(frozen=True)
class Daemon:
    """A running daemon and all that a test needs to talk to it."""

    base: str
    admin: str
    issuer: Issuer
    database: Database
    process: AnyProcess | None = None
    log: Path | None = None
    settings: dict[str, str] = field(default_factory=dict)

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Return what a daemon beside us has logged under these names, in order."""
        assert self.log is not None
        # The last line may still be written.
        lines = self.log.read_text("utf-8").rpartition("\n")[0].splitlines()
        logged = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in logged if event["event"] in names]

    @property
    def running(self) -> AnyProcess:
        """The process of a daemon beside us."""
        assert self.process is not None
        return self.process

    async def ended(self, seconds: float = 20) -> int:
        """Wait until a daemon beside us has ended, and return its exit code."""
        return await asyncio.to_thread(self.running.wait, seconds)


def settings_for(
    database: Database, issuer: Issuer, folder: Path, **overrides: str
) -> dict[str, str]:
    """Return the variables of a production daemon on a database of tests.

    Overrides are settings without their prefix, or with ``raw_`` in front for other variables; an
    empty one takes its default.
    """
    jwks = folder / "jwks.json"
    jwks.write_bytes(issuer.jwks())
    values = {
        "CUSTODY_DATABASE_URL": database.url("custody_app"),
        "CUSTODY_JWKS_FILE": str(jwks),
        "CUSTODY_JWT_ISSUER": issuer.url,
        "CUSTODY_LISTEN": "127.0.0.1:0",
        "CUSTODY_ADMIN_LISTEN": "127.0.0.1:0",
        "CUSTODY_LOG_LEVEL": "debug",
        # Tests make more requests of one user than all devices of one do.
        "CUSTODY_USER_CONCURRENCY": "1000",
        "CUSTODY_RATE_LIMIT": "0",
        "MANA_AUTH_KEK": "TUlEREFZUyBIRUFSVEJFQVQgT0YgQSBURVNUIEtFSyE=",
    }
    for name, value in overrides.items():
        values[f"CUSTODY_{name}".removeprefix("CUSTODY_raw_")] = value
    remember(values["MANA_AUTH_KEK"])
    return {name: value for name, value in values.items() if value}


@asynccontextmanager
async def daemon_here(
    database: Database, issuer: Issuer, folder: Path, **overrides: str
) -> AsyncIterator[Daemon]:
    """Run the daemon in this process for the length of the block."""
    environ = settings_for(database, issuer, folder, **overrides)
    # Clients in this process have sent their first requests by then: no stop waits for them.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "_FIRST_REQUEST_SECONDS", _SHORT_STOP_SECONDS)
        async with running(load(environ), environ) as here:
            base = here.addresses.vault + BASE_PATH
            yield Daemon(base, here.addresses.admin, issuer, database, settings=environ)


@contextmanager
def daemon_beside(
    database: Database,
    issuer: Issuer,
    folder: Path,
    *,
    module: str = "custody",
    probe: str = "readyz",
    **overrides: str,
) -> Iterator[Daemon]:
    """Run ``custody serve`` as a process of its own for the block, once a probe is answered.

    One that may never be ready answers ``livez``.

    A module of the tests that ends as ``python -m custody`` does may stand in for it.
    """
    listen, admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
    addresses = {"LISTEN": listen, "ADMIN_LISTEN": admin}
    environ = settings_for(database, issuer, folder, **addresses | overrides)
    log = log_file("daemon")
    variables = {"PATH": os.environ["PATH"], **coverage_environ(), **environ}
    process = Forked(module, "serve", environ=variables, out=log, err=log)
    listen = environ.get("CUSTODY_LISTEN", listen)
    base = (listen if listen.startswith("unix:") else f"http://{listen}") + BASE_PATH
    admin = f"http://{admin}"
    try:
        wait_for(f"{admin}/{probe}", process, log)
        yield Daemon(base, admin, issuer, database, process, log, environ)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(40)
        process.kill()
        process.wait()


def started(
    *command: str, environ: Mapping[str, str], out: Path, err: Path, **options: Any
) -> "subprocess.Popen[bytes]":
    """Start a program in our sources, with these variables alone; options are those of Popen."""
    variables = {"PATH": os.environ["PATH"], **coverage_environ(), **environ}
    with out.open("ab") as stdout, err.open("ab") as stderr:
        return subprocess.Popen(
            command, env=variables, cwd=ROOT, stdout=stdout, stderr=stderr, **options
        )


def log_file(name: str) -> Path:
    """Return where a process beside us may log."""
    return LOGS / f"{name}-{os.getpid()}-{secrets.token_hex(4)}.log"


def coverage_environ() -> dict[str, str]:
    """Return the variables by which a child process takes part in the coverage measurement."""
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}


def wait_for(url: str, process: AnyProcess, log: Path, seconds: float = 30) -> None:
    """Wait until a URL answers 200."""

    def answers() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"the daemon ended with {process.returncode}: {log.read_text()}")
        with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    try:
        soon(answers, seconds)
    except AssertionError:
        raise AssertionError(f"{url} did not answer 200: {log.read_text()}") from None
