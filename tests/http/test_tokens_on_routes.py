"""Every bad token on every route: 401, and nothing of it reaches the database."""

from collections.abc import Callable
from pathlib import Path

import pytest

from custody.http.routes import BASE_PATH, ROUTES, Route
from tests.client import Answer, Client, becomes, client_session
from tests.http.wire import assert_problem, exchange, parse, request
from tests.ports import free_port
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import BAD_TOKENS, UNSENDABLE, Issuer

SENDABLE = sorted(BAD_TOKENS.keys() - UNSENDABLE)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_bad_tokens(
    daemon: Daemon, device: Callable[[str], Client], transactions: list[str], route: Route
) -> None:
    assert len(SENDABLE) >= 40
    # The user of most bad tokens has a vault: there is something to protect.
    assert (await device("user-1").init()).status == 200
    before = await daemon.database.contents()
    transactions.clear()
    async with client_session() as session:
        for name in SENDABLE:
            value = BAD_TOKENS[name](daemon.issuer)
            headers = {"Content-Type": "application/json"}
            if value is not None:
                headers["Authorization"] = value
            async with session.request(
                route.method, daemon.base + route.path, headers=headers, data=b'{"enable":true}'
            ) as response:
                answer = Answer(response.status, response.headers, await response.read())
            assert_problem(answer, 401, "UNAUTHORIZED", name)
            challenge = "Bearer" if value is None else 'Bearer error="invalid_token"'
            assert answer.headers.get("WWW-Authenticate") == challenge, name
            if value:
                assert value.encode() not in answer.body, name
    assert transactions == []
    assert await daemon.database.contents() == before
    # The control: a genuine token does open a transaction.
    await device("user-1").status()
    assert transactions == ["user-1"]


@pytest.mark.parametrize("name", sorted(UNSENDABLE))
async def test_unsendable_token(daemon: Daemon, transactions: list[str], name: str) -> None:
    value = BAD_TOKENS[name](daemon.issuer)
    assert value is not None
    sent = request("GET", f"{BASE_PATH}/key", {"Authorization": value})
    (answer,) = parse(await exchange(daemon.base, sent))
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert transactions == []


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_two_authorization_headers(
    daemon: Daemon, transactions: list[str], route: Route
) -> None:
    good = daemon.issuer.bearer("alice")
    for second in (good, daemon.issuer.bearer("bob"), "Basic YTpi", ""):
        for first in (good, second):
            headers = {"Authorization": first, "authorization": good if first != good else second}
            sent = request(route.method, BASE_PATH + route.path, headers)
            (answer,) = parse(await exchange(daemon.base, sent))
            assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
            assert (answer.headers.get("WWW-Authenticate") or "").startswith("Bearer")
    assert transactions == []


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
async def test_scheme_in_any_case(daemon: Daemon, scheme: str) -> None:
    value = f"{scheme} {daemon.issuer.token('alice')}"
    sent = request("GET", f"{BASE_PATH}/status", {"Authorization": value})
    (answer,) = parse(await exchange(daemon.base, sent))
    assert answer.status == 200


async def test_never_any_jwks(
    database: Database, issuer: Issuer, tmp_path: Path, transactions: list[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}/api/auth/jwks"
    async with (
        daemon_here(database, issuer, tmp_path, JWKS_FILE="", JWKS_URL=url, RESET="on") as daemon,
        client_session() as session,
    ):
        client = Client(daemon, session, "alice")
        for route in ROUTES:
            answer = await client.call(route.method, route.path, data=b'{"enable":true}')
            assert (answer.status, answer.code) == (503, "ISSUER_UNAVAILABLE"), route.path
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.headers.get("WWW-Authenticate") is None
            # What no key could make good is still 401: it needs no issuer to know.
            async with session.request(route.method, daemon.base + route.path) as response:
                assert response.status == 401
        assert (await becomes(daemon, 503))["jwks"] != "ok"
    assert transactions == []
