"""Behind nginx and HAProxy, as docs/how-to/behind-a-proxy.md has them configured."""

import asyncio
import re
import secrets
import socket
import struct
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from custody.http.body import MAX_BODY_BYTES
from custody.http.routes import BASE_PATH, ROUTES
from tests.client import Client, generation_of
from tests.e2e.front import SETTINGS, Front
from tests.e2e.life import live
from tests.eventually import eventually
from tests.http.wire import SHARED, first_answer, read_to_end, request
from tests.leaks import remember
from tests.proxies import has_ipv6, visiting
from tests.servers import Daemon
from tests.states import STATES, TABLE, act, bring

BODY = b'{"enable":true}'
ORIGIN = SETTINGS["CORS_ORIGINS"]
FORGED = "203.0.113.99"
# Connections to PostgreSQL that a process has at most (docs/reference/limits.md).
_POOLED = 23
_NEWEST = (
    "SELECT ip_address FROM auth.encryption_vault_audit"
    " WHERE user_id = $1 ORDER BY created_at DESC, id DESC LIMIT 1"
)

pytestmark = SHARED


def new_user() -> str:
    return f"user-{secrets.token_hex(6)}"


async def address_of(at: Front, user: str) -> str | None:
    found: str | None = await at.behind.database.value(_NEWEST, user)
    return found


def upload(at: Front, user: str, body: bytes, length: int = len(BODY)) -> bytes:
    """A request to turn zero-knowledge mode on, with that much of its body."""
    head = {
        "Authorization": remember(at.behind.issuer.bearer(user)),
        "Content-Type": "application/json",
        "Content-Length": str(length),
        "X-Request-Id": user,
    }
    return request("POST", f"{BASE_PATH}/zero-knowledge", head, body, close=False)


@pytest.mark.prove
async def test_the_whole_life_of_a_vault(at: Front) -> None:
    async with visiting(at.proxy, at.address()) as session:
        await live(at.daemon, new_user(), session)
        await live(at.daemon, f"auth0|{secrets.token_hex(6)}@example.org/ü", session)


@pytest.mark.prove
async def test_every_cell_of_the_state_table(at: Front) -> None:
    database = at.behind.database
    for route, cells in TABLE.items():
        async with visiting(at.proxy, at.address()) as session:
            for state, (status, code, action, context) in zip(STATES, cells, strict=True):
                client = Client(at.daemon, session, user := new_user(), auth_time=time.time())
                key = await bring(client, state)
                before = await database.audit(user)
                answer = await act(client, route, key)
                assert (answer.status, answer.code) == (status, code), (route, state)
                assert await database.audit(user) == [*before, (action, context, status)]


async def test_etags_pass_as_they_are(at: Front) -> None:
    async with at.client(new_user()) as client:
        first = await client.init()
        assert generation_of(first) >= 1
        second = await client.rotate(if_match=first.headers["ETag"])
        assert generation_of(second) > generation_of(first)
        for tag in (first.headers["ETag"], f"W/{second.headers['ETag']}"):
            stale = await client.rotate(if_match=tag)
            assert (stale.status, stale.code) == (412, "STALE_GENERATION")


async def test_answers_of_the_daemon_pass_as_they_are(at: Front) -> None:
    user = new_user()
    async with at.client(user) as client:
        answer = await client.call("GET", "/key", headers={"X-Request-Id": f"id-{user}"})
        assert (answer.status, answer.code) == (404, "VAULT_NOT_INITIALISED")
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Server"] == "custody"
        assert answer.headers["X-Request-Id"] == f"id-{user}"
        # Who operates it finds the request in both logs.
        assert await eventually(lambda: f"id-{user}" in at.proxy.log())
        logged = partial(at.behind.events, "request")
        assert await eventually(lambda: [e for e in logged() if e["request_id"] == f"id-{user}"])
        given = (await client.key()).headers["X-Request-Id"]
        assert await eventually(lambda: given in at.proxy.log())
        refused = await client.call("GET", "/key", headers={"Authorization": "Bearer x"})
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")


async def test_preflight(at: Front) -> None:
    for path in sorted({route.path for route in ROUTES}):
        async with (
            visiting(at.proxy, at.address()) as session,
            session.options(
                at.daemon.base + path,
                headers={
                    "Origin": ORIGIN,
                    "Access-Control-Request-Method": "GET",
                    "Access-Control-Request-Headers": "authorization,content-type,if-match",
                },
            ) as answer,
        ):
            assert answer.status == 204
            assert answer.headers.getall("Access-Control-Allow-Origin") == [ORIGIN]
            allowed = answer.headers["Access-Control-Allow-Headers"].lower()
            assert {"authorization", "content-type", "if-match"} <= set(re.split(r"[, ]+", allowed))
    async with at.client(new_user()) as client:
        said = (await client.call("GET", "/status", headers={"Origin": ORIGIN})).headers
        assert said["Access-Control-Allow-Origin"] == ORIGIN
        assert "etag" in said["Access-Control-Expose-Headers"].lower()


async def test_other_paths_end_at_the_proxy(at: Front) -> None:
    async with visiting(at.proxy, at.address()) as session:
        for path in ("/", "/metrics", "/readyz", "/version", "/api/v1/me", "/openapi.json"):
            async with session.get(at.proxy.origin + path) as answer:
                assert answer.status == 404, path
                assert answer.headers.get("Server") != "custody"


@pytest.mark.parametrize(
    "forged",
    [
        {"X-Forwarded-For": FORGED},
        {"X-Forwarded-For": f"{FORGED}, 127.0.0.1"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-For": ""},
        {"X-Forwarded-For": "unknown"},
        {"x-forwarded-for": f'"{FORGED}:443"'},
        {"X_Forwarded_For": FORGED},
        {"Forwarded": f"for={FORGED}"},
        {"Forwarded": f"for={FORGED}", "X-Forwarded-For": FORGED, "X-Real-IP": FORGED},
        {"Connection": "X-Forwarded-For, Forwarded, close"},
    ],
    ids=str,
)
async def test_addresses_in_the_audit(at: Front, forged: dict[str, str]) -> None:
    user = new_user()
    for address in (at.address(), *(["::1"] if has_ipv6() else [])):
        async with at.client(user, address) as client:
            assert (await client.call("POST", "/init", headers=forged)).status == 200
        assert await address_of(at, user) == address


@pytest.mark.prove
async def test_kept_connections_are_nobodys(at: Front) -> None:
    """Many users at once over few connections to the daemon: each gets his own key each time."""
    made = at.tap.made
    async with AsyncExitStack() as devices:
        clients = [await devices.enter_async_context(at.client(new_user())) for _ in range(20)]
        keys = [(await client.init()).json["masterKey"] for client in clients]
        assert len(set(keys)) == len(clients)
        for turn in range(4):
            asked = clients if turn % 2 else clients[::-1]
            answers = await asyncio.gather(*(client.key() for client in asked))
            own = keys if turn % 2 else keys[::-1]
            assert [answer.json["masterKey"] for answer in answers] == own
        for client, key in zip(clients, keys, strict=True):
            assert (await client.key()).json["masterKey"] == key
            assert await at.behind.database.audit(client.user) == [
                ("init", "created", 200),
                *[("fetch", None, 200)] * 5,
            ]
    # Of 120 requests, those that come one after the other share.
    assert at.tap.made - made <= 2 * len(clients)


@pytest.mark.prove
async def test_aborted_uploads(at: Front) -> None:
    """Fifty clients break off in the middle of a body; the daemon never hears of them."""
    users = [new_user() for _ in range(50)]
    for user in users:
        await at.behind.database.execute("INSERT INTO auth.users VALUES ($1)", user)
    before = await at.behind.database.contents()
    kept, descriptors = at.tap.open, _descriptors(at.behind)
    opened = [await at.connect() for _ in users]
    for n, (user, (_, writer)) in enumerate(zip(users, opened, strict=True)):
        writer.write(upload(at, user, BODY[: n % len(BODY)]))
        await writer.drain()
    for n, (_, writer) in enumerate(opened):
        if n % 2:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
    async with at.client(new_user()) as client:
        assert (await client.status()).status == 200
        assert await at.behind.database.contents() == before
        assert (await client.init()).status == 200
    assert not any(at.tap.has_seen(user.encode()) for user in users)
    # Not one of fifty is left open, there or here; the daemon may have more of PostgreSQL's.
    assert await eventually(lambda: at.tap.open <= kept + 2)
    assert await eventually(lambda: _descriptors(at.behind) <= descriptors + 2 + _POOLED)


def _descriptors(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.running.pid}/fd").iterdir()))


async def test_slow_bodies_wait_at_the_proxy(at: Front) -> None:
    user = new_user()
    reader, writer = await at.connect()
    writer.write(upload(at, user, BODY[:-1]))
    # Another one comes and goes; this one has not got further.
    async with at.client(user) as client:
        assert (await client.init()).status == 200
    assert not at.tap.has_seen(user.encode())
    writer.write(BODY[-1:])
    assert (await first_answer(reader)).code == "RECOVERY_WRAP_MISSING"
    assert await eventually(lambda: at.tap.has_seen(user.encode()))
    writer.close()


@pytest.mark.prove
async def test_body_that_never_comes_is_given_up(at: Front) -> None:
    user = new_user()
    reader, writer = await at.connect()
    writer.write(upload(at, user, BODY[:-1]))
    async with asyncio.timeout(30):
        received = await read_to_end(reader)
    assert received == b"" or received.startswith(b"HTTP/1.1 408 ")
    assert not at.tap.has_seen(user.encode())
    writer.close()


async def test_bodies_of_the_largest_size(at: Front) -> None:
    """What the daemon takes passes, in memory; what it does not ends at the proxy."""
    user = new_user()
    async with at.client(user) as client:
        await client.init()
        body = BODY + b" " * (MAX_BODY_BYTES - len(BODY))
        answer = await client.call("POST", "/zero-knowledge", data=body)
        assert (answer.status, answer.code) == (400, "RECOVERY_WRAP_MISSING")
    mark = f"large-{user}"
    async with (
        visiting(at.proxy, at.address()) as session,
        session.post(
            f"{at.daemon.base}/zero-knowledge", data=body + b" ", headers={"X-Request-Id": mark}
        ) as refused,
    ):
        assert refused.status == 413
    assert not at.tap.has_seen(mark.encode())
    assert "temporary file" not in at.proxy.log()
