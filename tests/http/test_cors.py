"""Cross-origin requests: none by default; for the origins that are set, what browsers need."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from custody.http.routes import ROUTES
from tests.client import Answer, Client, client_session
from tests.http.wire import SHARED, ask
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

ORIGIN, SECOND = "https://app.example", "http://localhost:5173"
FOREIGN = (
    "https://evil.example",
    "https://app.example.evil.example",
    "https://app.example:8443",
    "https://app.example/",
    "http://app.example",
    "HTTPS://APP.EXAMPLE",
    "https://xapp.example",
    "null",
    "*",
    "",
    f"{ORIGIN}, {SECOND}",
    "\u00e9",
)
EXPOSED = {"etag", "retry-after", "www-authenticate", "x-request-id"}
PATHS = sorted({route.path for route in ROUTES})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cors_daemon(
    module_database: Database, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Daemon]:
    """A daemon that two origins may call."""
    origins, folder = f"{ORIGIN}, {SECOND}", tmp_path_factory.mktemp("cors")
    async with daemon_here(
        module_database, issuer, folder, CORS_ORIGINS=origins, RESET="on"
    ) as running:
        yield running


def words(answer: Answer, name: str) -> set[str]:
    return {word.strip().lower() for word in (answer.headers.get(name) or "").split(",")} - {""}


def granted(answer: Answer) -> set[str]:
    return {name.lower() for name in answer.headers if name.lower().startswith("access-control-")}


async def preflight(daemon: Daemon, path: str, origin: str | None, method: str | None) -> Answer:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    headers = {"Access-Control-Request-Headers": "authorization,content-type,if-match"}
    headers |= {name: value for name, value in asked.items() if value is not None}
    return await ask(daemon, "OPTIONS", path, headers)


@SHARED
@pytest.mark.parametrize("path", PATHS)
async def test_preflight(cors_daemon: Daemon, path: str) -> None:
    methods = {route.method for route in ROUTES if route.path == path}
    for origin in (ORIGIN, SECOND):
        for method in methods:
            answer = await preflight(cors_daemon, path, origin, method)
            assert answer.status == 204
            assert answer.body == b""
            assert answer.headers.get("Access-Control-Allow-Origin") == origin
            assert answer.headers.get("Access-Control-Allow-Credentials") == "true"
            assert words(answer, "Access-Control-Allow-Methods") == {m.lower() for m in methods}
            assert words(answer, "Access-Control-Allow-Headers") >= {
                "authorization",
                "content-type",
                "if-match",
            }
            assert int(answer.headers.get("Access-Control-Max-Age") or 0) > 0
            assert words(answer, "Vary") >= {"origin"}
            assert answer.headers.get("Cache-Control") == "no-store"


@SHARED
@pytest.mark.parametrize("origin", [None, *FOREIGN])
async def test_preflight_of_a_foreign_origin(cors_daemon: Daemon, origin: str | None) -> None:
    answer = await preflight(cors_daemon, "/key", origin, "GET")
    assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")
    assert granted(answer) == set()
    assert words(answer, "Vary") >= {"origin"}


@SHARED
async def test_options_that_is_no_preflight(cors_daemon: Daemon) -> None:
    assert (await preflight(cors_daemon, "/key", ORIGIN, None)).status == 405
    assert (await preflight(cors_daemon, "/nothing", ORIGIN, "GET")).status == 404


@SHARED
async def test_answers_to_an_allowed_origin(cors_daemon: Daemon) -> None:
    async with client_session() as session:
        alice = Client(cors_daemon, session, "alice")
        for origin in (ORIGIN, SECOND):
            sent = {"Origin": origin}
            answers = [
                await alice.call("POST", "/init", headers=sent),
                await alice.call("GET", "/key", headers=sent),
                await alice.call("POST", "/zero-knowledge", headers=sent, data=b"x"),  # 400
                await alice.call("GET", "/key", headers={**sent, "Authorization": "x"}),  # 401
                await alice.call("GET", "/nothing", headers=sent),  # 404
                await alice.call("POST", "/rotate", if_match='"99"', headers=sent),  # 412
            ]
            assert [answer.status for answer in answers] == [200, 200, 400, 401, 404, 412]
            for answer in answers:
                assert answer.headers.get("Access-Control-Allow-Origin") == origin
                assert answer.headers.get("Access-Control-Allow-Credentials") == "true"
                assert words(answer, "Access-Control-Expose-Headers") == EXPOSED
                assert words(answer, "Vary") >= {"origin"}


@SHARED
@pytest.mark.parametrize("origin", FOREIGN)
async def test_answers_to_a_foreign_origin(cors_daemon: Daemon, origin: str) -> None:
    """They are given (a token was sent), but no page of that origin may read them."""
    async with client_session() as session:
        alice = Client(cors_daemon, session, "alice")
        answer = await alice.call("GET", "/status", headers={"Origin": origin})
    assert answer.status == 200
    assert granted(answer) == set()
    assert words(answer, "Vary") >= {"origin"}


@SHARED
async def test_none_by_default(shared: Daemon) -> None:
    for origin in (ORIGIN, *FOREIGN):
        answer = await preflight(shared, "/key", origin, "GET")
        assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")
        assert granted(answer) == set()
        assert json.loads(answer.body)["status"] == 405
        assert answer.headers.get("Allow") == "GET"
    async with client_session() as session:
        alice = Client(shared, session, "alice")
        answer = await alice.call("GET", "/status", headers={"Origin": ORIGIN})
    assert granted(answer) == set()
    assert answer.headers.get("Vary") is None
