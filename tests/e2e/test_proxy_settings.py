"""What docs/how-to/behind-a-proxy.md says of its settings: limits, other places."""

import asyncio
import ssl
from asyncio import StreamReader, StreamWriter
from collections import Counter
from contextlib import suppress

import aiohttp
import pytest

from custody.http.routes import BASE_PATH
from tests.client import Client
from tests.db.embedded_server import open_folder
from tests.e2e.front import Front, addresses_of, front
from tests.eventually import eventually
from tests.http.wire import SHARED, parse, read_to_end, request
from tests.leaks import remember
from tests.proxies import HOST, KINDS, page, proxy, visiting
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

pytestmark = [SHARED, pytest.mark.parametrize("kind", KINDS)]

_CONNECTIONS = 50
_BALANCER = "127.0.0.10"


@pytest.mark.prove
async def test_one_address_has_so_many_requests(kind: str, behind: Daemon) -> None:
    async with front(kind, behind) as at, at.client("many", address := at.address()) as client:
        async with visiting(at.proxy, address) as session:

            async def asked() -> int:
                async with session.get(f"{at.daemon.base}/status") as answer:
                    return answer.status

            statuses: Counter[int] = Counter()
            for _ in range(20):
                statuses.update(await asyncio.gather(*(asked() for _ in range(25))))
        assert set(statuses) == {401, 429}
        assert statuses[401] >= 100
        # Somebody else has nothing to do with it.
        async with at.client(client.user) as elsewhere:
            assert (await elsewhere.status()).status == 200


async def test_one_address_has_so_many_connections(kind: str, behind: Daemon) -> None:
    head = {"Content-Type": "application/json", "Content-Length": "15"}
    stalled = request("POST", f"{BASE_PATH}/zero-knowledge", head, b"{", close=False)
    async with front(kind, behind) as at:
        address, writers = at.address(), []

        async def ended() -> bytes:
            try:
                reader, writer = await at.connect(address=address)
            except (OSError, ssl.SSLError):
                return b""
            writers.append(writer)
            writer.write(stalled)
            return await reader.read(1)

        tasks = [asyncio.ensure_future(ended()) for _ in range(_CONNECTIONS + 10)]
        await eventually(lambda: sum(task.done() for task in tasks) >= 10)
        async with at.client("elsewhere") as client:
            assert (await client.status()).status == 200
        assert sum(task.done() for task in tasks) == 10
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_nothing_that_changes_a_key_is_sent_twice(kind: str, behind: Daemon) -> None:
    """A daemon that takes the second request of a connection, and goes without a word."""
    taken: Counter[bytes] = Counter()

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        for last in (False, True):
            with suppress(asyncio.IncompleteReadError):
                taken[(await reader.readuntil(b"\r\n\r\n")).split(b" ")[0]] += 1
                if not last:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with proxy(kind, f"127.0.0.1:{port}") as at:
            async with visiting(at, "127.0.0.5") as session:
                async with session.get(f"{at.origin}{BASE_PATH}/key") as answer:
                    assert answer.status == 200
                with suppress(aiohttp.ClientConnectionError):
                    async with session.post(f"{at.origin}{BASE_PATH}/rotate") as answer:
                        assert answer.status == 502
        assert taken == {b"GET": 1, b"POST": 1}
    finally:
        server.close()


@pytest.mark.prove
async def test_daemon_that_is_away(kind: str, behind: Daemon) -> None:
    with proxy(kind, "127.0.0.1:1") as at:
        async with (
            visiting(at, "127.0.0.5") as session,
            session.post(f"{at.origin}{BASE_PATH}/init") as answer,
        ):
            assert answer.status == (502 if kind == "nginx" else 503)
            assert answer.headers.get("Server") != "custody"


async def test_unix_socket(
    kind: str, module_database: Database, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    title = "A unix socket between them"
    settings = page(title, "sh")
    assert "CUSTODY_TRUSTED_PROXIES=unix\n" in settings
    assert "CUSTODY_LISTEN='unix:/run/custody.sock?mode=0660&group=www-data'\n" in settings
    server = {"nginx": "server 127.0.0.1:3001;\n", "haproxy": "server custody 127.0.0.1:3001\n"}
    with open_folder() as folder:
        socket = f"{folder}/custody.sock"
        instead = page(title, kind).replace("/run/custody.sock", socket)
        listen = f"unix:{socket}?mode=0666"
        async with daemon_here(
            module_database,
            issuer,
            tmp_path_factory.mktemp("unix"),
            LISTEN=listen,
            TRUSTED_PROXIES="unix",
        ) as daemon:
            with proxy(kind, "", {server[kind]: instead}) as at:
                async with visiting(at, "127.0.0.6") as session:
                    client = Client(_seen(daemon, at.origin), session, f"unix-{kind}")
                    assert (await client.init()).status == 200
    assert await addresses_of(module_database, f"unix-{kind}") == ["127.0.0.6"]


def _seen(daemon: Daemon, origin: str) -> Daemon:
    return Daemon(origin + BASE_PATH, daemon.admin, daemon.issuer, daemon.database)


async def balanced(at: Front, user: str, line: bytes) -> tuple[int, ...]:
    """Come by way of a balancer, that says so in a line before TLS; returns the statuses."""
    sent = request("POST", f"{BASE_PATH}/init", {"Authorization": remember(_bearer(at, user))})
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", at.proxy.port, local_addr=(_BALANCER if line else at.address(), 0)
    )
    return await _over_tls(at, reader, writer, line, sent)


async def _over_tls(
    at: Front, reader: StreamReader, writer: StreamWriter, line: bytes, sent: bytes
) -> tuple[int, ...]:
    writer.write(line)
    await writer.drain()
    try:
        await writer.start_tls(at.proxy.tls(), server_hostname=HOST)
    except (OSError, ssl.SSLError):
        return ()
    writer.write(sent)
    received = await read_to_end(reader)
    writer.close()
    return tuple(answer.status for answer in parse(received))


def _bearer(at: Front, user: str) -> str:
    return at.behind.issuer.bearer(user)


async def test_balancer_that_speaks_the_proxy_protocol(kind: str, behind: Daemon) -> None:
    plain = {
        "nginx": "    listen 443 ssl http2;\n    listen [::]:443 ssl http2;\n",
        "haproxy": "    tcp-request connection track-sc0 src,ipmask(32,64)\n"
        "    tcp-request connection reject if { sc_conn_cur(0) gt 50 }\n",
    }
    instead = page("A balancer before the proxy", kind)
    assert "192.0.2.10" in instead
    changes = {plain[kind]: instead.replace("192.0.2.10", _BALANCER)}
    async with front(kind, behind, changes) as at:
        for n, (family, client) in enumerate((("TCP4", "203.0.113.7"), ("TCP6", "2001:db8::7"))):
            user = f"balanced-{kind}-{n}"
            target = "2001:db8::1" if n else "192.0.2.1"
            line = f"PROXY {family} {client} {target} 51234 443\r\n".encode()
            assert await balanced(at, user, line) == (200,)
            assert await addresses_of(behind.database, user) == [client]
        # Who is no balancer is nobody else by saying so.
        user, address = f"forger-{kind}", at.address()
        sent = request("POST", f"{BASE_PATH}/init", {"Authorization": remember(_bearer(at, user))})
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", at.proxy.port, local_addr=(address, 0)
        )
        line = b"PROXY TCP4 203.0.113.7 192.0.2.1 51234 443\r\n"
        statuses = await _over_tls(at, reader, writer, line, sent)
        assert statuses == ((200,) if kind == "nginx" else ())
        assert await addresses_of(behind.database, user) == [address] * len(statuses)
