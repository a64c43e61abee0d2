"""A daemon behind a proxy, and who comes to it by way of that."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from custody.http.routes import BASE_PATH
from tests.client import Client
from tests.e2e.tap import Tap, tap
from tests.proxies import HOST, Changes, Proxy, addresses, page, proxy, visiting
from tests.servers import Daemon, Database

_ADDRESSES = "SELECT ip_address FROM auth.encryption_vault_audit WHERE user_id = $1 ORDER BY id"

# As the page has it for the daemon.
SETTINGS: Mapping[str, str] = {
    name.removeprefix("CUSTODY_"): value
    for name, _, value in (line.partition("=") for line in page("The daemon", "sh").splitlines())
    if name != "CUSTODY_LISTEN"
}


@dataclass(frozen=True)
class Front:
    """A proxy, the daemon behind it, and the tap between the two.

    Args:
        proxy: that runs.
        tap: sees what it asks.
        daemon: as clients of the proxy see it.
        behind: the same without the proxy.
        address: gives a client's address that nobody has had; limits are per address.
    """

    proxy: Proxy
    tap: Tap
    daemon: Daemon
    behind: Daemon
    address: Callable[[], str]

    @asynccontextmanager
    async def client(self, user: str, address: str | None = None) -> AsyncIterator[Client]:
        """Open a user's device; its address is a new one unless it is named."""
        async with visiting(self.proxy, address or self.address()) as session:
            yield Client(self.daemon, session, user)

    async def connect(
        self, *protocols: str, address: str | None = None
    ) -> tuple[StreamReader, StreamWriter]:
        """Open a connection that speaks TLS, to say anything on it."""
        return await asyncio.open_connection(
            "127.0.0.1",
            self.proxy.port,
            ssl=self.proxy.tls(*protocols),
            server_hostname=HOST,
            local_addr=(address or self.address(), 0),
        )


@asynccontextmanager
async def front(kind: str, behind: Daemon, changes: Changes | None = None) -> AsyncIterator[Front]:
    """Run a proxy in front of a daemon for the length of the block."""
    port = urlsplit(behind.base).port
    assert port is not None
    async with tap(port) as between:
        with proxy(kind, f"127.0.0.1:{between.port}", changes) as running:
            seen = replace(behind, base=running.origin + BASE_PATH)
            yield Front(running, between, seen, behind, addresses())


async def addresses_of(database: Database, user: str) -> list[str | None]:
    """Return the client addresses in a user's audit rows, the oldest first."""
    return [row["ip_address"] for row in await database.fetch(_ADDRESSES, user)]
