"""Connections: how many there may be, of all and of one address, and which one makes room."""

import asyncio
import random
import re
import resource
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from custody.http.routes import BASE_PATH
from custody.sockets import connections as module
from custody.sockets import site
from custody.sockets.connections import (
    MAX_CONNECTIONS,
    Connections,
    descriptors_for_connections,
    network_of,
)
from custody.sockets.places import Place, Places
from tests.certificates import make_certificate
from tests.client import client_session
from tests.clock import Clock
from tests.eventually import eventually
from tests.http.wire import connect, first_answer, request
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

PROXY = "10.9.9.9"
ENDED = (ConnectionResetError, asyncio.IncompleteReadError)


class Room:
    """Connections, and which of them were closed.

    Args:
        bound: of all.
        of_an_address: of one.
    """

    def __init__(self, bound: int = 8, of_an_address: int = 4) -> None:
        self.clock = Clock()
        self.reasons: list[str] = []
        self.aborted: list[Place] = []
        self.connections = Connections(
            bound, of_an_address, lambda peer: peer == PROXY, self.reasons.append, self.clock
        )

    def take(
        self, peer: str, *, unsent: Callable[[], int] = lambda: 0, closing: bool = False
    ) -> Place | None:
        """Connect from an address."""
        place = self.connections.take(peer)
        if place is not None:
            place.made(
                abort=lambda: self.aborted.append(place), unsent=unsent, closing=lambda: closing
            )
        return place

    def later(self) -> None:
        """Let a time pass in which nobody needs any grace."""
        self.clock.now += module.GRACE_SECONDS

    def must(self, peer: str) -> Place:
        """Connect from an address that has room."""
        place = self.take(peer)
        assert place is not None
        return place

    def known(self, peer: str) -> Place:
        """Connect, and have a request with a good token answered."""
        place = self.must(peer)
        self.connections.know(place)
        return place


def test_the_oldest_of_an_address_makes_room_for_its_own_next() -> None:
    room = Room()
    first, second, *_ = (room.must("1.1.1.1") for _ in range(4))
    other = room.must("2.2.2.2")
    room.must("1.1.1.1")
    room.must("1.1.1.1")
    assert room.aborted == [first, second]
    assert other not in room.aborted
    assert room.reasons == ["room"] * 2


def test_the_address_with_the_most_makes_room_when_all_is_full() -> None:
    room = Room()
    few = [room.must("1.1.1.1") for _ in range(2)]
    many = [room.must("2.2.2.2") for _ in range(4)]
    few += [room.must("3.3.3.3") for _ in range(2)]
    room.later()
    room.must("4.4.4.4")
    assert room.aborted == many[:1]


def test_who_never_had_a_good_token_makes_room_first() -> None:
    room = Room()
    known = [room.known("2.2.2.2") for _ in range(4)]
    strangers = [room.must(f"1.1.1.{n}") for n in range(4)]
    room.later()
    for n in range(4):
        room.must(f"4.4.4.{n}")
    assert room.aborted == strangers
    assert not set(known) & set(room.aborted)


def test_one_that_has_just_been_made_is_spared_while_there_are_others() -> None:
    """It had no time to say what it wants: the address that has the most may be an honest one."""
    room = Room(bound=6)
    settled = room.must("2.2.2.2")
    room.later()
    fresh = [room.must("1.1.1.1") for _ in range(3)]
    room.must("3.3.3.3")
    room.must("4.4.4.4")
    room.must("5.5.5.5")
    assert room.aborted == [settled]
    room.must("6.6.6.6")
    assert room.aborted == [settled, fresh[0]]


@pytest.mark.parametrize("addresses", [4, 1])
def test_who_holds_all_places_by_good_tokens_keeps_nobody_out(addresses: int) -> None:
    """Newcomers would push out each other, one after the other, and no idle one that is known."""
    room = Room(bound=8, of_an_address=8 // addresses)
    held = [room.known(f"1.1.1.{n % addresses}") for n in range(8)]
    newcomers = []
    for n in range(4):
        newcomers.append(room.must(f"2.2.2.{n}" if addresses > 1 else "1.1.1.0"))
        room.clock.now += 0.05
        room.connections.know(newcomers[max(0, n - 1)])
    assert not set(newcomers) & set(room.aborted)
    assert set(room.aborted) < set(held)


def test_one_that_does_not_end_is_closed() -> None:
    """Its client has said goodbye, and takes nothing: of TLS what waits for it is not seen."""
    room = Room()
    stuck = room.take("1.1.1.1", closing=True)
    room.connections.close_unread()
    room.clock.now += module.CLOSING_SECONDS - 0.1
    room.connections.close_unread()
    assert not room.aborted
    room.clock.now += 0.1
    room.connections.close_unread()
    assert room.aborted == [stuck]


def test_places_are_found_by_how_many_their_address_has() -> None:
    """As many changes as there are, the order is that of counting anew."""
    dice = random.Random(15)  # noqa: S311 - dice that can be repeated
    places, held = Places(), list[Place]()
    for step in range(3000):
        if held and dice.random() < 0.45:
            places.remove(held.pop(dice.randrange(len(held))))
        else:
            held.append(Place(str(dice.randrange(40)), places, step))
            places.add(held[-1])
        counts = Counter(place.address for place in held)
        assert places.most == max(counts.values(), default=0)
        assert len(places) == len(held)
        assert places.oldest is (min(held, key=lambda one: one.since) if held else None)
        found = list(places.of_the_most())
        assert sorted(found, key=lambda one: -counts[one.address]) == found
        assert set(found) == set(held)


def test_known_ones_make_room_when_there_is_nobody_else() -> None:
    room = Room(bound=4)
    known = [room.known("2.2.2.2") for _ in range(4)]
    room.must("3.3.3.3")
    assert room.aborted == known[:1]


def test_nothing_under_way_is_closed() -> None:
    room = Room(bound=2, of_an_address=1)
    busy = [room.must("1.1.1.1"), room.must("2.2.2.2")]
    for place in busy:
        room.connections.know(place)
        place.busy = True
    assert room.take("1.1.1.1") is None
    assert room.take("3.3.3.3") is None
    assert not room.aborted
    assert not room.reasons
    busy[1].busy = False
    assert room.take("3.3.3.3") is not None
    assert room.aborted == [busy[1]]


def test_a_proxy_is_bounded_by_all_alone_and_makes_no_room() -> None:
    room = Room(bound=6, of_an_address=2)
    stranger = room.must("1.1.1.1")
    proxies = [room.must(PROXY) for _ in range(5)]
    assert room.aborted == []
    proxies.append(room.must(PROXY))
    assert room.aborted == [stranger]
    assert room.take(PROXY) is None
    assert room.take("1.1.1.1") is None
    room.connections.leave(proxies[0])
    assert room.take("1.1.1.1") is not None


def test_a_place_is_given_back_once() -> None:
    room = Room(bound=2)
    place = room.must("1.1.1.1")
    for _ in range(3):
        room.connections.leave(place)
    room.must("1.1.1.1")
    room.must("1.1.1.1")
    assert room.aborted == []
    room.must("1.1.1.1")
    assert len(room.aborted) == 1


def test_a_connection_that_is_gone_before_its_token_is_checked_takes_no_place() -> None:
    """A request goes on to its end, whatever has become of its connection meanwhile."""
    room = Room(bound=2)
    for peer in ("1.1.1.1", "2.2.2.2", "3.3.3.3"):
        place = room.must(peer)
        room.connections.leave(place)
        room.connections.know(place)
    room.must("4.4.4.4")
    room.must("5.5.5.5")
    assert not room.aborted


def test_no_room_is_logged_once_a_minute() -> None:
    room = Room(bound=2)
    with capture_logs() as logged:
        for _ in range(50):
            room.must("1.1.1.1")
        room.clock.now += 60
        room.must("1.1.1.1")
    assert [line["event"] for line in logged] == ["connections_full"] * 2


def test_who_reads_nothing_is_closed() -> None:
    room = Room()
    waits = 1
    never = room.take("1.1.1.1", unsent=lambda: 1)
    room.take("1.1.1.1", unsent=lambda: waits)
    room.take(PROXY)
    for _ in range(4):
        room.connections.close_unread()
        assert room.aborted == []
        room.clock.now += module.UNREAD_SECONDS / 4
        waits = 1 - waits  # it reads, slowly
    room.connections.close_unread()
    assert room.aborted == [never]
    assert room.reasons == ["unread"]


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_addresses_that_count_together(peer: str, network: str) -> None:
    assert network_of(peer) == network


@pytest.mark.parametrize(
    ("limit", "room"),
    [
        (resource.RLIM_INFINITY, MAX_CONNECTIONS),
        (1_048_576, MAX_CONNECTIONS),
        (4096, 3840),
        (1024, 768),
        (512, 256),
        (256, 128),
    ],
)
def test_descriptors_are_kept_back(monkeypatch: pytest.MonkeyPatch, limit: int, room: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (limit, limit))
    assert descriptors_for_connections() == room


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that is asked for after it has room for eight connections, two of an address."""
    monkeypatch.setattr("custody.sockets.connections.descriptors_for_connections", lambda: 8)


@pytest.mark.usefixtures("few")
async def test_idle_connections_make_room_for_who_comes(daemon: Daemon) -> None:
    idle = [await connect(daemon.base) for _ in range(20)]
    reader, writer = await connect(daemon.base)
    headers = {"Authorization": daemon.issuer.bearer("alice")}
    writer.write(request("GET", f"{BASE_PATH}/status", headers, close=False))
    assert (await first_answer(reader)).status == 200
    async with asyncio.timeout(20):
        for at_end, _ in idle[:18]:
            with pytest.raises(ENDED):
                await at_end.readexactly(1)
    # The one that has served is there still, and makes no room for strangers.
    idle += [await connect(daemon.base) for _ in range(5)]
    for at_end, _ in idle[18:24]:
        with pytest.raises(ENDED):
            await at_end.readexactly(1)
    writer.write(request("GET", f"{BASE_PATH}/status", headers))
    assert (await first_answer(reader)).status == 200
    for _, other in idle:
        other.close()
    writer.close()


@pytest.mark.usefixtures("few")
async def test_nothing_under_way_makes_room(daemon: Daemon) -> None:
    """Whoever has a body under way with a good token is left to the end of it."""
    headers = {
        "Authorization": daemon.issuer.bearer("alice"),
        "Content-Type": "application/json",
        "Content-Length": "15",
        "Expect": "100-continue",
    }
    begun = [await connect(daemon.base) for _ in range(2)]
    for reader, writer in begun:
        writer.write(request("POST", f"{BASE_PATH}/zero-knowledge", headers))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    # The bound of an address is 2: there is no room for another one.
    for _ in range(3):
        assert await is_turned_away(daemon)
    for reader, writer in begun:
        writer.write(b'{"enable":true}')
        assert (await first_answer(reader)).status == 404
        writer.close()


async def is_turned_away(daemon: Daemon) -> bool:
    reader, writer = await connect(daemon.base)
    writer.write(request("GET", f"{BASE_PATH}/status"))
    try:
        await first_answer(reader)
    except ENDED:
        return True
    finally:
        writer.close()
    return False


@pytest.mark.usefixtures("few")
async def test_handshakes_that_stall_make_room(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    cert, key = make_certificate(tmp_path)
    tls = {"TLS_CERT": str(cert), "TLS_KEY": str(key)}
    async with daemon_here(database, issuer, tmp_path, **tls) as daemon:
        host, port = daemon.base.split("/")[2].split(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(5)]
        async with asyncio.timeout(20):
            for reader, _ in silent[:3]:
                with pytest.raises(ENDED):
                    await reader.readexactly(1)
        assert not silent[4][0].at_eof()
        for _, writer in silent:
            writer.close()


@pytest.mark.prove
@pytest.mark.usefixtures("few")
async def test_what_has_ended_makes_room(daemon: Daemon) -> None:
    """Of an idle connection with a good token the request is over; a closed one takes no place."""
    headers = {"Authorization": daemon.issuer.bearer("alice")}
    kept = []
    for _ in range(5):
        reader, writer = await connect(daemon.base)
        writer.write(request("GET", f"{BASE_PATH}/status", headers, close=False))
        assert (await first_answer(reader)).status == 200
        kept.append(writer)
    # The bound of an address is 2.
    assert await closed_as(daemon, "room", 3)
    for writer in kept:
        writer.close()


@pytest.mark.usefixtures("few")
async def test_what_is_closed_takes_no_place(daemon: Daemon) -> None:
    for _ in range(10):
        reader, writer = await connect(daemon.base)
        writer.write(request("GET", f"{BASE_PATH}/status"))
        assert (await first_answer(reader)).status == 401
        assert await reader.read() == b""
        writer.close()
    assert not await closed_as(daemon, "room")


@pytest.mark.usefixtures("few")
async def test_what_speaks_no_tls_takes_no_place(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    cert, key = make_certificate(tmp_path)
    tls = {"TLS_CERT": str(cert), "TLS_KEY": str(key)}
    async with daemon_here(database, issuer, tmp_path, **tls) as daemon:
        for _ in range(10):
            reader, writer = await connect(daemon.base.replace("https:", "http:"))
            writer.write(request("GET", f"{BASE_PATH}/status"))
            with suppress(ConnectionResetError):
                await reader.read()
            writer.close()
        assert not await closed_as(daemon, "room")


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that is asked for after it looks often at what is not read."""
    monkeypatch.setattr(site, "LOOK_SECONDS", 0.1)


# A unix socket holds less than the network does: it is full soon.
@pytest.mark.prove
@pytest.mark.usefixtures("looks_often")
async def test_the_connection_of_who_reads_nothing_ends(
    database: Database, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNREAD_SECONDS", 0.2)
    path = tmp_path / "vault"
    async with daemon_here(database, issuer, tmp_path, LISTEN=f"unix:{path}") as daemon:
        with await never_reads(path, 2000):
            await eventually(lambda: closed_as(daemon, "unread", 1))


@pytest.mark.prove
@pytest.mark.usefixtures("looks_often")
async def test_a_connection_that_can_not_be_closed_ends(
    database: Database, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last response waits for a client that reads nothing: so many that one of them does."""
    monkeypatch.setattr(module, "UNREAD_SECONDS", 600)
    monkeypatch.setattr(module, "CLOSING_SECONDS", 0.2)
    path = tmp_path / "vault"
    async with daemon_here(database, issuer, tmp_path, LISTEN=f"unix:{path}") as daemon:
        with ExitStack() as held:
            for many in range(50, 1000, 50):
                held.enter_context(await never_reads(path, many))
            await eventually(lambda: closed_as(daemon, "unread"))


async def never_reads(path: Path, many: int) -> socket.socket:
    """Ask many times, for the last time at the end, and read nothing."""
    loop = asyncio.get_running_loop()
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    await loop.sock_connect(client, str(path))
    sent = request("GET", f"{BASE_PATH}/status", close=False) * (many - 1)
    await loop.sock_sendall(client, sent + request("GET", f"{BASE_PATH}/status"))
    return client


async def closed_as(daemon: Daemon, reason: str, number: int | None = None) -> bool:
    """Say whether so many connections were closed for a reason; None: any at all."""
    async with client_session() as session, session.get(f"{daemon.admin}/metrics") as response:
        shown = await response.text()
    found = re.findall(rf'custody_closed_connections_total{{reason="{reason}"}} (\d+)', shown)
    return int(found[0]) > 0 if number is None else found == [str(number)]
