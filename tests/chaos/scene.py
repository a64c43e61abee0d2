"""Where faults happen: a PostgreSQL of its own, two daemons, and what else a fault needs."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from custody.db.engine import Dsn
from custody.db.migrate import migrate
from custody.development.postgres import EmbeddedPostgres
from custody.development.postgres.lock import pid_file
from tests.bao_server import Bao, bao_server
from tests.chaos.service import Launch, Service, forked
from tests.checker import Finding, Kind, check, verify
from tests.eventually import eventually
from tests.faulty_proxy import FaultyProxy, faulty_proxy
from tests.ledger import Ledger
from tests.memory import memory
from tests.ports import free_port
from tests.servers import Database, settings_for, shorten_logins, start_on
from tests.tokens import Issuer

USERS = 8
DAEMONS = 2
# Without a failure for so long, all is over.
_CALM_SECONDS = 0.5
_BACK_SECONDS = 60.0
_DISK = "160m"


@dataclass
class Scene:
    """What there is.

    Args:
        server: PostgreSQL, durable.
        port: its own, whenever it is started again.
        database: of the daemons.
        proxy: by which all of them reach it.
        issuer: of tokens.
        environ: of a daemon, and of commands.
        services: the daemons.
        bao: the KMS; None: the KEK is in memory.
        disk: the file system that all of the server lies on; None where it is not one of its own.
        clocks: the folder by which clocks are turned; None: they can't be.
        ledger: what users have seen of the fault that is going on.
        backs: seconds from each cure until all were served again.
        wrong: what was found meanwhile.
    """

    server: EmbeddedPostgres
    port: int
    database: Database
    proxy: FaultyProxy
    issuer: Issuer
    environ: Mapping[str, str]
    services: list[Service]
    bao: Bao | None = None
    disk: Path | None = None
    clocks: Path | None = None
    ledger: Ledger = field(init=False)
    backs: list[float] = field(default_factory=list)
    wrong: list[Finding] = field(default_factory=list)

    @property
    def postmaster(self) -> int:
        """The pid of the server's first process."""
        return int(pid_file(self.server.folder)[0])

    def server_has_ended(self) -> bool:
        """Whether PostgreSQL is gone."""
        lines = pid_file(self.server.folder)
        return not lines or not Path("/proc", lines[0]).exists()

    async def start_server(self) -> None:
        """Start PostgreSQL where it was, as a service manager does."""

        def start() -> None:
            self.server.stop()
            start_on(self.server, self.port)

        await asyncio.to_thread(start)

    @asynccontextmanager
    async def only(self, service: Service) -> AsyncIterator[None]:
        """Have one daemon serve all users for the length of the block."""
        before, bases = self.services, self.ledger.bases
        await asyncio.to_thread(service.start)
        self.services, self.ledger.bases = [service], [service.base]
        try:
            yield
        finally:
            self.services, self.ledger.bases = before, bases
            await asyncio.to_thread(service.end)

    async def restart(self, service: Service) -> None:
        """Start a daemon that has ended."""
        await asyncio.to_thread(service.start)

    async def back(self) -> None:
        """Wait until all users are served by all daemons, and note how long that took."""
        cured = time.monotonic()

        async def is_calm() -> bool:
            for service in self.services:
                if service.has_ended():
                    await self.restart(service)
            now = time.monotonic()
            late = list(self.ledger.since(now - _CALM_SECONDS))
            served = {one.user for one in late if not one.is_failure}
            return (
                now - cured > _CALM_SECONDS
                and not any(one.is_failure for one in late)
                and len(served) >= USERS / 2
            )

        try:
            await eventually(is_calm, _BACK_SECONDS)
        except AssertionError:
            self.note(Kind.LOST, f"users are not served {_BACK_SECONDS:.0f} s after the cure")
        self.backs.append(self.ledger.back(cured))

    def note(self, kind: Kind, about: str) -> None:
        """Note that something is wrong."""
        self.wrong.append(Finding(kind, about))

    @asynccontextmanager
    async def all_are_served(self, but: str = "") -> AsyncIterator[None]:
        """Hold against it each user who is not served in the block, one of them excepted."""
        begun = time.monotonic()
        yield
        for entry in self.ledger.since(begun):
            if entry.is_failure and entry.begun > begun and entry.user != but:
                self.note(Kind.ANSWER, f"{entry.user}: {entry.act} {entry.status} {entry.code}")

    async def check(self) -> list[Finding]:
        """Hold everything but the seals against the ledger."""
        return self.wrong + await check(
            self.ledger,
            database=self.database.url("postgres"),
            environ=None,
            admins=[service.admin for service in self.services],
        )

    async def verify(self) -> list[Finding]:
        """Have all seals looked at, of all that was done here."""
        owner = {"CUSTODY_OWNER_DATABASE_URL": self.database.url("custody_owner")}
        return await asyncio.to_thread(verify, {**self.environ, **owner})


@asynccontextmanager
async def scene(
    issuer: Issuer, *, kms: bool = False, disk: bool = False, launch: Launch = forked
) -> AsyncIterator[Scene]:
    """Set it up for the length of the block.

    Args:
        issuer: of tokens.
        kms: the KEK is in an OpenBao.
        disk: all of PostgreSQL lies on a small file system of its own.
        launch: how the daemons are started.
    """
    async with AsyncExitStack() as stack:
        enter = stack.enter_context
        folder = enter(_folder(disk=disk))
        server = EmbeddedPostgres(folder / "pg")
        port = free_port()
        await asyncio.to_thread(start_on, server, port)
        stack.callback(server.stop)
        database = Database(server, "custody")
        await migrate(Dsn(database.url("custody_owner")))
        await asyncio.to_thread(server.grant_logins)
        await shorten_logins(server)
        proxy = enter(faulty_proxy(port))
        bao = None
        more = {"DATABASE_URL": database.through(proxy.port), "AUDIT_SEAL_INTERVAL": "1"}
        if kms:
            (folder / "bao").mkdir()
            bao = await asyncio.to_thread(enter, bao_server(folder / "bao"))
            key = bao.make_key()
            more |= {"KEK": f"vault:transit/{key}"}
            more |= {f"raw_{name}": value for name, value in bao.environ(key).items()}
        (folder / "daemons").mkdir(0o700)
        environ = settings_for(database, issuer, folder / "daemons", **more, LOG_LEVEL="info")
        services = [Service(environ, launch) for _ in range(DAEMONS)]
        for service in services:
            await asyncio.to_thread(service.start)
            stack.callback(service.end)
        where = folder if disk else None
        yield Scene(server, port, database, proxy, issuer, environ, services, bao, where)


@contextmanager
def _folder(*, disk: bool) -> Iterator[Path]:
    """Make a folder that the server's user may enter: a file system of its own, or in memory."""
    path = Path(tempfile.mkdtemp(prefix="custody-chaos-", dir=None if disk else memory()))
    try:
        if disk:
            _run("mount", "-t", "tmpfs", "-o", f"size={_DISK}", "none", str(path))
        path.chmod(0o755)
        yield path
    finally:
        if disk:
            _run("umount", "--lazy", str(path))
        shutil.rmtree(path, ignore_errors=True)


def why_no_disk() -> str:
    """Say why there can't be a file system of its own; nothing where there can."""
    if sys.platform != "linux" or shutil.which("mount") is None:
        return "there is no mount"
    with tempfile.TemporaryDirectory() as path:
        try:
            _run("mount", "-t", "tmpfs", "-o", "size=1m", "none", path)
        except RuntimeError as error:
            return str(error)
        _run("umount", "--lazy", path)
    return ""


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip()}")
