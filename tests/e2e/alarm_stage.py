"""Two daemons, all that they depend on, and a real Prometheus that watches them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from unittest.mock import patch

import aiohttp

from tests.client import Client, becomes, client_session
from tests.db.command import custody
from tests.e2e.alarm_rules import hasty, write_shortened
from tests.e2e.keks import Place, make_place, overrides
from tests.eventually import eventually
from tests.faulty_proxy import FaultyProxy, faulty_proxy
from tests.http_servers import Asked, HttpServer, serving
from tests.kek.kms_stub import KmsStub, kms_stub
from tests.ports import free_port
from tests.prometheus import ask, exporter, prometheus
from tests.servers import Daemon, Database, daemon_here, settings_for
from tests.tokens import Issuer
from tests.unit.test_monitoring import RULES

# An alert with its severity.
Alert: TypeAlias = tuple[str, str]
ALL = {(rule["alert"], rule["labels"]["severity"]) for rule in RULES}
# This one has causes that are none of the test's: the machine's own work.
_ANY_TIME = {("CustodySlow", "warning")}
_DESCRIPTORS = 128


@dataclass
class Stage:
    """All of it.

    Args:
        database: of both daemons; the first one has its way there through ``network``.
        issuer: of the tokens.
        folder: for files.
        stub: the KMS.
        network: can be cut.
        session: of all clients.
        settings: of both daemons, and of commands.
        second_settings: of the second one alone.
        jwks: what the issuer answers; None: it is down.
    """

    database: Database
    issuer: Issuer
    folder: Path
    stub: KmsStub
    network: FaultyProxy
    session: aiohttp.ClientSession
    settings: dict[str, str]
    second_settings: dict[str, str]
    jwks: bytes | None
    first: Daemon = field(init=False)
    second: Daemon = field(init=False)
    address: str = field(init=False)
    _of_second: AsyncExitStack = field(default_factory=AsyncExitStack)

    def client(self, user: str, **claims: object) -> Client:
        """Return a client of the first daemon."""
        return Client(self.first, self.session, user, **claims)

    @property
    def drill_file(self) -> Path:
        """Where drills leave their metrics."""
        return self.folder / "drill.prom"

    async def command(self, *words: str) -> int:
        """Run a command of custody, and return its exit code."""
        environ = settings_for(self.database, self.issuer, self.folder, **self.settings)
        environ["CUSTODY_REWRAP_DATABASE_URL"] = self.database.url("custody_rewrap")
        return (await asyncio.to_thread(custody, environ, *words)).code

    async def drill(self) -> int:
        """Run a drill as the timer does."""
        return await self.command("kek", "drill", "--textfile", str(self.drill_file))

    async def start_second(self, **overrides: str) -> None:
        """Start the second daemon; it finds room for few connections."""
        # It is told so. A real limit would be one of this process, which has descriptors of others.
        limit = _DESCRIPTORS, _DESCRIPTORS
        with patch("resource.getrlimit", return_value=limit):
            self.second = await self._of_second.enter_async_context(
                daemon_here(
                    self.database,
                    self.issuer,
                    self.folder,
                    **self.settings | self.second_settings | overrides,
                )
            )

    async def stop_second(self) -> None:
        """Stop the second daemon."""
        await self._of_second.aclose()

    async def firing(self) -> set[Alert]:
        """Return what fires now."""
        return await self._alerts('ALERTS{alertstate="firing"}')

    async def fired(self) -> set[Alert]:
        """Return what has fired at any time."""
        return await self._alerts('max_over_time(ALERTS{alertstate="firing"}[1h])')

    @asynccontextmanager
    async def rings(self, *wanted: Alert) -> AsyncIterator[None]:
        """Make a cause in the block: at its end each of these alerts fires, and none had before."""
        assert set(wanted) <= ALL
        early = (set(wanted) - _ANY_TIME) & await self.fired()
        assert not early, early
        await self.becomes(lambda firing: not set(wanted) & firing)
        yield
        await self.becomes(lambda firing: set(wanted) <= firing)

    async def clears(self, *names: str) -> None:
        """Wait until none of these alerts fires, whatever its severity."""
        await self.becomes(lambda firing: not {name for name, _ in firing} & set(names))

    async def becomes(self, holds: Callable[[set[Alert]], bool]) -> None:
        """Wait until something holds of what fires."""

        async def does() -> bool:
            firing = await self.firing()
            assert holds(firing), firing
            return True

        await eventually(does, 40)

    async def _alerts(self, query: str) -> set[Alert]:
        found = await ask(self.session, self.address, query)
        return {(one["metric"]["alertname"], one["metric"]["severity"]) for one in found}


@asynccontextmanager
async def stage(
    database: Database, issuer: Issuer, folder: Path, *users: str
) -> AsyncIterator[Stage]:
    """Set it up, with users who have their vaults."""
    rules = folder / "rules.json"
    write_shortened(rules)
    async with AsyncExitStack() as stack:
        stub, network = (
            stack.enter_context(kms_stub()),
            stack.enter_context(faulty_proxy(database.server.port)),
        )
        session = await stack.enter_async_context(client_session())
        settings = {
            **_settings_of_keks(stub, folder),
            "JWKS_FILE": "",
            "AUDIT_SEAL_INTERVAL": "1",
            # Opened again every two seconds, and kept for less than six hours without.
            "DATA_KEY_TTL": "2",
            "DATA_KEY_MAX_AGE": "3600",
            "CANARY_USERS": "eve",
        }
        of_second = {"ADMIN_LISTEN": f"127.0.0.1:{free_port()}", "UNWRAP_LIMIT": "1"}
        on = Stage(
            *(database, issuer, folder, stub, network, session),
            *(settings, of_second, issuer.jwks()),
        )
        settings["JWKS_URL"] = stack.enter_context(serving(_issuer_of(on))).url
        stack.enter_context(hasty())
        through = database.through(network.port)
        on.first = await stack.enter_async_context(
            daemon_here(database, issuer, folder, **settings | {"DATABASE_URL": through})
        )
        stack.push_async_callback(on.stop_second)
        await on.start_second()
        for user in users:
            assert (await on.client(user).init()).status == 200
        node = await stack.enter_async_context(exporter(on.drill_file))
        daemons = [on.first.admin, on.second.admin]
        on.address = await stack.enter_async_context(
            prometheus(folder, rules, custody=daemons, node=[node])
        )
        await asyncio.gather(*(becomes(one, 200) for one in (on.first, on.second)))
        yield on


def _settings_of_keks(stub: KmsStub, folder: Path) -> dict[str, str]:
    for alias in ("alias/custody", "alias/next"):
        stub.make_key(alias)
    root = make_place("env", folder)
    active = overrides(Place("aws-kms:alias/custody", "", stub.environ))
    return active | {
        "SECOND_KEK": root.uri,
        **{f"raw_{name}": value for name, value in root.environ.items()},
    }


def _issuer_of(on: Stage) -> HttpServer:
    def publish(asked: Asked) -> None:
        if on.jwks is None:
            asked.say(status=503)
        else:
            asked.say(on.jwks)

    return HttpServer(publish)


@contextlib.contextmanager
def again_and_again(work: Callable[[], object], pause: float = 0.1) -> Iterator[None]:
    """Do something, which may fail, without end in the block."""

    async def go_on() -> None:
        while True:
            done = work()
            if asyncio.iscoroutine(done):
                await done
            await asyncio.sleep(pause)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
