"""Connections are taken a few at a time, and none is lost where there is no room for it."""

import asyncio
import errno
import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from custody.sockets import site as site_module
from custody.sockets.addresses import Listener
from custody.sockets.site import Site
from tests.certificates import make_certificate
from tests.http.wire import Greeter, exchange, unbounded


class Reluctant(Listener):
    """A listener that counts, and fails as often as it is told to."""

    failures: list[int]
    taken = 0

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            number = self.failures.pop()
            raise OSError(number, os.strerror(number))
        made = super().accept()
        self.taken += 1
        return made


@pytest.fixture
def listener() -> Iterator[Reluctant]:
    with Reluctant(socket.AF_INET, socket.SOCK_STREAM) as made:
        made.failures = []
        made.bind(("127.0.0.1", 0))
        made.listen(100)
        yield made


async def test_connections_are_taken_a_few_in_a_turn(listener: Reluctant) -> None:
    clients = [socket.create_connection(listener.getsockname()) for _ in range(40)]
    site = Site(Greeter, [listener], unbounded())
    most = seen = 0
    while listener.taken < len(clients):
        await asyncio.sleep(0)
        most, seen = max(most, listener.taken - seen), listener.taken
    for client in clients:
        client.settimeout(5)
        assert await asyncio.to_thread(client.recv, 10) == b"hello"
        client.close()
    assert most == 16
    await site.stop()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_without_room_they_wait(
    listener: Reluctant, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_module, "_PAUSE_SECONDS", 0.2)
    listener.failures = [number]
    site = Site(Greeter, [listener], unbounded())
    waiting = asyncio.create_task(exchange(site.address))
    with capture_logs() as logged:
        await asyncio.sleep(0.1)
    assert (listener.taken, listener.failures) == (0, [])
    assert [(line["event"], line["log_level"]) for line in logged] == [
        ("connections_wait", "error")
    ]
    assert await waiting == b"hello"
    await site.stop()


async def test_stopped_while_they_wait(
    listener: Reluctant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_module, "_PAUSE_SECONDS", 0.05)
    listener.failures = [errno.EMFILE]
    site = Site(Greeter, [listener], unbounded())
    with socket.create_connection(listener.getsockname()):
        await asyncio.sleep(0.01)
        await site.stop()
        await site.stop()
        await asyncio.sleep(0.1)
        assert listener.taken == 0


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EINTR])
async def test_connection_that_is_gone_before_it_is_taken(listener: Reluctant, number: int) -> None:
    stray: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, about: stray.append(about))
    listener.failures = [number]
    site = Site(Greeter, [listener], unbounded())
    assert await exchange(site.address) == b"hello"
    await site.stop()
    assert stray == []


async def test_connection_made_just_before_the_stop_is_answered(listener: Reluctant) -> None:
    site = Site(Greeter, [listener], unbounded())
    waiting = asyncio.create_task(exchange(site.address))
    for _ in range(100):
        if listener.taken:  # and not yet given to its protocol
            break
        await asyncio.sleep(0)
    await site.stop()
    assert await waiting == b"hello"
    assert listener.fileno() == -1
    assert site.address.startswith("http://127.0.0.1:")  # the status may still be told


@pytest.mark.prove
async def test_handshake_that_is_under_way_at_the_stop_is_finished(
    listener: Reluctant, tmp_path: Path
) -> None:
    cert, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    trust = ssl.create_default_context(cafile=cert)
    site = Site(Greeter, [listener], unbounded(), context)
    client = socket.create_connection(listener.getsockname())
    silent = socket.create_connection(listener.getsockname())
    await asyncio.sleep(0.1)
    assert listener.taken == len((client, silent))
    began = time.monotonic()
    stopping = asyncio.create_task(site.stop())
    await asyncio.sleep(0.3)
    reader, writer = await asyncio.open_connection(
        sock=client, ssl=trust, server_hostname="127.0.0.1"
    )
    assert await reader.read() == b"hello"
    writer.close()
    await stopping
    # Who says nothing holds up the stop for a moment only.
    assert time.monotonic() - began < 10
    silent.close()


async def test_who_speaks_no_tls_hurts_nobody(listener: Reluctant, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    trust = ssl.create_default_context(cafile=cert)
    trust.check_hostname = False
    stray: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, about: stray.append(about))
    site = Site(Greeter, [listener], unbounded(), context)
    assert site.address.startswith("https://127.0.0.1:")
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(5):
        assert b"HTTP" not in await reader.read()
    writer.close()
    reader, writer = await asyncio.open_connection(*listener.getsockname(), ssl=trust)
    async with asyncio.timeout(5):
        assert await reader.read() == b"hello"
    writer.close()
    await site.stop()
    assert stray == []
