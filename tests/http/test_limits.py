"""Limits: of time for headers and bodies, of requests under way, of a user's requests."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from custody.auth.jwks import MAX_WAITERS
from custody.http import frontend, pages, server, shares
from custody.http.body import MAX_BODY_BYTES
from custody.http.client_address import USER_AGENT_LENGTH
from custody.http.routes import BASE_PATH
from custody.settings import Settings
from custody.sockets import connections, site
from custody.vault.kek_timeout import KEK_TIMEOUT_SECONDS
from tests.client import Client, client_session
from tests.eventually import eventually
from tests.http.wire import connect, first_answer, read_to_end, request
from tests.servers import ROOT, Daemon, Database, daemon_here
from tests.tokens import Issuer

Device = Callable[[str], Client]

SHORT = 0.5
PATIENCE = 9.0  # of a test on a busy machine; far from any real limit
BODY = b'{"enable":true}'
BEGUN = f"GET {BASE_PATH}/key HTTP/1.1\r\nHost: x\r\n"


def stalled(daemon: Daemon, body: bytes = b"") -> bytes:
    headers = {
        "Authorization": daemon.issuer.bearer("alice"),
        "Content-Type": "application/json",
        "Content-Length": str(len(BODY)),
    }
    return request("POST", f"{BASE_PATH}/zero-knowledge", headers, body)


async def answers(client: Client, status: int) -> bool:
    return (await client.status()).status == status


def test_the_real_limits() -> None:
    """What the contract allows: 10 s for a request, 60 s for whatever stalls."""
    assert frontend.REQUEST_SECONDS == 10
    assert server.KEEPALIVE_SECONDS < 60
    assert frontend.REQUEST_SECONDS + server.LINGERING_SECONDS < 60
    assert site.HANDSHAKE_SECONDS < 60
    assert connections.UNREAD_SECONDS + 2 * connections.LOOK_SECONDS < 60
    # A client that stops reading just before its connection idles out has TLS to end, too.
    ends = max(site.TLS_SHUTDOWN_SECONDS, connections.CLOSING_SECONDS)
    assert server.KEEPALIVE_SECONDS + ends + 2 * connections.LOOK_SECONDS < 60


PAGE = {
    "headers of a request, and an idle connection": f"{server.KEEPALIVE_SECONDS:.0f} s",
    "a body": f"{MAX_BODY_BYTES // 1024} KiB",
    "a request, from its headers to its answer": f"{frontend.REQUEST_SECONDS:.0f} s",
    "the rest of a body that is not read any more": f"{server.LINGERING_SECONDS:.0f} s",
    "a KEK that does not answer": f"{KEK_TIMEOUT_SECONDS:.0f} s",
    "requests of a user at once": str(Settings.model_fields["user_concurrency"].default),
    "requests of a user a second, and as many at once": str(
        Settings.model_fields["rate_limit"].default
    ),
    "requests at once, of all users": str(shares.MAX_IN_FLIGHT),
    "requests that wait for a fetch of the JWKS": str(MAX_WAITERS),
    "stored user agent": str(USER_AGENT_LENGTH),
    "connections of the vault's listener": str(connections.MAX_CONNECTIONS),
    "connections of the admin listener": str(connections.MAX_OF_ADMIN),
    "a TLS handshake": f"{site.HANDSHAKE_SECONDS:.0f} s",
    "rows in a page of `/audit`": f"{pages.MAX_LIMIT}",
    "a response that its client does not read": f"{connections.UNREAD_SECONDS:.0f} s",
    "the end of a connection whose client takes nothing any more": (
        f"{connections.CLOSING_SECONDS:.0f} s"
    ),
}


@pytest.mark.parametrize("what", PAGE)
def test_the_page_of_limits_says_what_is(what: str) -> None:
    page = (ROOT / "docs" / "reference" / "limits.md").read_text()
    (limit,) = re.findall(rf"(?m)^\| {re.escape(what)} \| ([^|]*) \|", page)
    assert re.search(rf"\b{re.escape(PAGE[what])}\b", limit)


@pytest.mark.parametrize(
    "lines",
    [
        f"GET /{'x' * 8192} HTTP/1.1\r\n\r\n",
        f"GET {BASE_PATH}/status HTTP/1.1\r\nX: {'x' * 8192}\r\n\r\n",
        f"GET {BASE_PATH}/status HTTP/1.1\r\n" + "X: y\r\n" * 129 + "\r\n",
    ],
    ids=["request line", "header", "headers"],
)
async def test_headers_beyond_their_limits(daemon: Daemon, lines: str) -> None:
    reader, writer = await connect(daemon.base)
    writer.write(lines.encode())
    answer = await first_answer(reader)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert await read_to_end(reader) == b""
    writer.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that is asked for after it waits for headers only a short time."""
    monkeypatch.setattr(server, "KEEPALIVE_SECONDS", SHORT)


@pytest.mark.prove
@pytest.mark.parametrize(
    ("sent", "trickle"), [("", False), ("GET", False), (BEGUN, False), (BEGUN, True)]
)
@pytest.mark.parametrize(
    "second",
    [
        pytest.param(False, id="first request", marks=pytest.mark.prove),
        pytest.param(True, id="second request"),
    ],
)
@pytest.mark.usefixtures("impatient")
async def test_stalled_headers(daemon: Daemon, sent: str, trickle: bool, second: bool) -> None:
    reader, writer = await connect(daemon.base)
    if second:
        headers = {"Authorization": daemon.issuer.bearer("alice")}
        writer.write(request("GET", f"{BASE_PATH}/status", headers, close=False))
        assert (await first_answer(reader)).status == 200
    began = time.monotonic()
    writer.write(sent.encode())
    closed = asyncio.ensure_future(read_to_end(reader))
    while trickle and not closed.done():
        writer.write(b"X: y\r\n")
        await asyncio.sleep(0.1)
        assert time.monotonic() - began < PATIENCE
    async with asyncio.timeout(PATIENCE):
        assert await closed == b""
    assert time.monotonic() - began > SHORT / 2
    writer.close()


@pytest.mark.prove
@pytest.mark.parametrize("body", [b"", BODY[:-1]])
async def test_stalled_body(
    daemon: Daemon, device: Device, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    await device("alice").init()
    before = await daemon.database.audit("alice")
    monkeypatch.setattr(frontend, "REQUEST_SECONDS", SHORT)
    monkeypatch.setattr(server, "LINGERING_SECONDS", SHORT)
    reader, writer = await connect(daemon.base)
    began = time.monotonic()
    writer.write(stalled(daemon, body))
    answer = await first_answer(reader)
    assert SHORT / 2 < time.monotonic() - began < PATIENCE
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    # aiohttp's own would be longer than this.
    async with asyncio.timeout(PATIENCE):
        assert await read_to_end(reader) == b""
    writer.close()
    assert await daemon.database.audit("alice") == before


@pytest.mark.prove
async def test_trickled_body(
    daemon: Daemon, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline is of the whole request: each byte does not buy another one."""
    await device("alice").init()
    monkeypatch.setattr(frontend, "REQUEST_SECONDS", SHORT)
    reader, writer = await connect(daemon.base)
    began = time.monotonic()
    writer.write(stalled(daemon).replace(b"Length: 15", b"Length: 9999"))
    answer = asyncio.ensure_future(first_answer(reader))
    while not answer.done():
        writer.write(b" ")
        await asyncio.sleep(0.05)
        assert time.monotonic() - began < PATIENCE
    assert (await answer).status == 400
    writer.close()


@pytest.mark.prove
async def test_body_that_comes_late_but_in_time(daemon: Daemon, device: Device) -> None:
    await device("alice").init()
    reader, writer = await connect(daemon.base)
    writer.write(stalled(daemon))
    for byte in BODY:
        await asyncio.sleep(0.01)
        writer.write(bytes([byte]))
    assert (await first_answer(reader)).code == "RECOVERY_WRAP_MISSING"
    writer.close()


@pytest.mark.prove
async def test_overloaded(daemon: Daemon, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = device("alice")
    await alice.init()
    before = await daemon.database.audit("alice")
    monkeypatch.setattr("custody.http.shares.MAX_IN_FLIGHT", 2)
    held = []
    for _ in range(2):
        reader, writer = await connect(daemon.base)
        writer.write(stalled(daemon))
        held.append((reader, writer))
    async with asyncio.timeout(5):
        while (answer := await alice.key()).status == 200:
            pass
    assert (answer.status, answer.code) == (503, "OVERLOADED")
    assert int(answer.headers.get("Retry-After") or 0) >= 1
    # Who has no place takes none: a path that is not ours is answered as ever.
    assert (await alice.call("GET", "/nothing")).status == 404
    served = len(await daemon.database.audit("alice")) - len(before)
    assert (await daemon.database.audit("alice"))[len(before) :] == [("fetch", None, 200)] * served
    # Those that are under way end well, and make room.
    for reader, writer in held:
        writer.write(BODY)
        assert (await first_answer(reader)).code == "RECOVERY_WRAP_MISSING"
        writer.close()
    assert (await alice.key()).status == 200


@pytest.mark.prove
async def test_rate_limit(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    async with (
        daemon_here(database, issuer, tmp_path, RATE_LIMIT="5") as daemon,
        client_session() as session,
    ):
        alice, bob = Client(daemon, session, "alice"), Client(daemon, session, "bob")
        await alice.init()
        await asyncio.sleep(0.3)
        answers = await asyncio.gather(*(alice.key() for _ in range(30)))
        good = [answer for answer in answers if answer.status == 200]
        refused = [answer for answer in answers if answer.status == 429]
        assert len(good) + len(refused) == 30
        # A second's worth at once; a slow machine may earn a few more meanwhile.
        assert 4 <= len(good) <= 15
        for answer in refused:
            assert answer.code == "RATE_LIMITED"
            assert answer.headers.get("Content-Type") == "application/problem+json"
            assert 1 <= int(answer.headers.get("Retry-After") or 0) <= 2
        # It is each user's own limit, of the verified token.
        assert (await bob.status()).status == 200
        anonymous = await alice.call("GET", "/key", headers={"Authorization": "Bearer x"})
        assert anonymous.status == 401
        assert await database.audit("alice") == [
            ("init", "created", 200),
            *[("fetch", None, 200)] * len(good),
        ]
        await asyncio.sleep(int(refused[-1].headers.get("Retry-After") or 0))
        assert (await alice.key()).status == 200


@pytest.mark.prove
async def test_the_default_shares_are_more_than_devices_of_one_user_take(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    async with (
        daemon_here(database, issuer, tmp_path, RATE_LIMIT="", USER_CONCURRENCY="") as daemon,
        client_session() as session,
    ):
        alice = Client(daemon, session, "alice")
        for _ in range(6):
            answers = await asyncio.gather(*(alice.init() for _ in range(16)))
            assert {answer.status for answer in answers} == {200}


@pytest.mark.prove
async def test_share_of_a_user(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    """Slow bodies of one user take that user's places, and nobody else's."""
    async with (
        daemon_here(database, issuer, tmp_path, USER_CONCURRENCY="3") as daemon,
        client_session() as session,
    ):
        alice, bob = Client(daemon, session, "alice"), Client(daemon, session, "bob")
        await alice.init()
        before = await database.audit("alice")
        slow = [await connect(daemon.base) for _ in range(5)]
        for _, writer in slow:
            writer.write(stalled(daemon))
        # Two of the five have no place; which ones is chance.
        answers = [asyncio.ensure_future(first_answer(reader)) for reader, _ in slow]
        refused = 0
        async with asyncio.timeout(PATIENCE):
            for done in asyncio.as_completed(answers):
                answer = await done
                assert (answer.status, answer.code) == (429, "RATE_LIMITED")
                assert answer.headers.get("Retry-After") == "1"
                refused += 1
                if refused == 2:
                    break
        assert (await alice.key()).status == 429
        assert (await bob.init()).status == 200
        assert await database.audit("alice") == before
        left = [pair for pair, answer in zip(slow, answers, strict=True) if not answer.done()]
        for _, writer in left:
            writer.write(BODY)
        codes = Counter([(await answer).code for answer in answers])
        assert codes == {"RATE_LIMITED": 2, "RECOVERY_WRAP_MISSING": 3}
        assert (await alice.key()).status == 200
        for _, writer in slow:
            writer.close()


@pytest.mark.prove
async def test_a_share_is_given_back_when_the_client_breaks_off(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    async with (
        daemon_here(database, issuer, tmp_path, USER_CONCURRENCY="1") as daemon,
        client_session() as session,
    ):
        alice = Client(daemon, session, "alice")
        await alice.init()
        for _ in range(20):
            _, writer = await connect(daemon.base)
            writer.write(stalled(daemon))
            await eventually(lambda: answers(alice, 429))
            writer.transport.abort()
            await eventually(lambda: answers(alice, 200))


async def test_requests_without_a_good_token_take_no_place(
    daemon: Daemon, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that nobody knows can't have the others answered OVERLOADED."""
    monkeypatch.setattr("custody.http.shares.MAX_IN_FLIGHT", 1)
    alice = device("alice")
    slow = [await connect(daemon.base) for _ in range(5)]
    for _, writer in slow:
        writer.write(stalled(daemon).replace(b"Bearer ", b"Bearer x"))
        writer.write(request("POST", f"{BASE_PATH}/nothing", {"Content-Length": "9"})[:-2])
    assert (await alice.init()).status == 200
    for _, writer in slow:
        writer.close()


@pytest.mark.prove
async def test_who_reads_no_answer_does_not_hold_up_the_stop(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    many = request("GET", f"{BASE_PATH}/status", close=False) * 10_000
    # A unix socket holds less than the network does: it is full soon.
    path = tmp_path / "vault"
    async with daemon_here(database, issuer, tmp_path, LISTEN=f"unix:{path}"):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(many)
        # Until the daemon reads no more, as its answers are not read.
        left = -1
        while (now := writer.transport.get_write_buffer_size()) != left:
            left = now
            await asyncio.sleep(0.5)
        assert left > 0
        began = time.monotonic()
    assert time.monotonic() - began < 15
    writer.transport.abort()
