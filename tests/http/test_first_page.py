"""The page of the first five minutes: who may have its tokens, and that production has none of it.

What it does in a browser: ``tests/e2e/test_first_page.py``.
"""

from collections.abc import AsyncIterator

import aiohttp
import jwt
import pytest
import pytest_asyncio

from custody.cli.commands.dev import _has_page
from custody.db.engine import Dsn, create_engine
from custody.development.issuer import ISSUER, DevelopmentIssuer
from custody.development.page import FirstPage
from custody.http.middleware import TopHandler
from custody.http.router import Router
from custody.http.server import http_server
from custody.sockets.addresses import open_address
from tests import shown
from tests.http.wire import SHARED, unbounded
from tests.leaks import remember
from tests.servers import ROOT, Daemon
from tests.unit.test_imports import offenders

STATIC = ROOT / "custody/development/page/static"
PLACES = ["/", *(f"/page/{file.name}" for file in STATIC.iterdir()), "/page/custody-client.js"]
ASKED = {"user": "alice"}


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentIssuer:
    return DevelopmentIssuer.create(tmp_path_factory.mktemp("first-page"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(signer: DevelopmentIssuer) -> AsyncIterator[str]:
    """The page alone, without a vault or a database; its origin."""
    engine = create_engine(Dsn("postgresql://custody_app@127.0.0.1:1/custody"))
    handler = TopHandler(Router(FirstPage(signer, "mana", engine).table()))
    listeners = open_address("127.0.0.1:0", "CUSTODY_LISTEN")
    async with http_server(handler, listeners, unbounded()) as server:
        yield server.address


@pytest_asyncio.fixture(loop_scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@SHARED
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "127.1.2.3"])
@pytest.mark.parametrize("site", [{}, {"Sec-Fetch-Site": "same-origin"}], ids=["old", "new"])
async def test_its_own_page_has_tokens(
    page: str,
    session: aiohttp.ClientSession,
    signer: DevelopmentIssuer,
    name: str,
    site: dict[str, str],
) -> None:
    """Under whatever name of this host, and by whatever port it is forwarded from."""
    headers = {"Host": f"{name}:4000", "Origin": f"http://{name}:4000", **site}
    answer = await session.post(f"{page}/page/token", json=ASKED, headers=headers)
    assert answer.status == 200
    token = remember((await answer.json())["token"])
    (key,) = jwt.PyJWKSet.from_dict(signer.jwks()).keys
    claims = jwt.decode(token, key, algorithms=["EdDSA"], audience="mana", issuer=ISSUER)
    assert claims["sub"] == "alice"
    assert claims["exp"] - claims["iat"] == 15 * 60


@SHARED
@pytest.mark.parametrize("path", ["/page/token", "/page/row"])
@pytest.mark.parametrize(
    "headers",
    [
        # A name that leads here by now: to the browser it is all of one origin.
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Host": "evil.example:{port}", "Origin": "http://evil.example:{port}"},
        {"Host": "localhost.evil.example", "Origin": "http://localhost.evil.example"},
        {"Host": "127.0.0.1.evil.example", "Origin": "http://127.0.0.1.evil.example"},
        {"Host": "user@evil.example:80", "Origin": "http://user@evil.example:80"},
        {"Host": "[", "Origin": "http://["},
        {"Host": "", "Origin": "http://"},
        {"Host": "192.0.2.7", "Origin": "http://192.0.2.7"},
        # Pages of others, of this host as well, and of a proxy in front.
        {},
        {"Origin": "null"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:{port}"},
        {"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
async def test_a_stranger_has_none(
    page: str, session: aiohttp.ClientSession, path: str, headers: dict[str, str]
) -> None:
    port = page.rpartition(":")[2]
    sent = {name: value.replace("{port}", port) for name, value in headers.items()}
    answer = await session.post(page + path, json=ASKED, headers=sent)
    assert answer.status == 404
    assert "token" not in await answer.text()
    assert "Access-Control-Allow-Origin" not in answer.headers


@SHARED
async def test_no_page_may_ask_across_origins(page: str, session: aiohttp.ClientSession) -> None:
    """JSON can't be sent by a form, and the question before is not answered."""
    asked = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    preflight = await session.options(f"{page}/page/token", headers=asked)
    assert preflight.status == 405
    assert not [name for name in preflight.headers if name.startswith("Access-Control")]
    form = await session.post(f"{page}/page/token", data=ASKED, headers={"Origin": page})
    assert form.status == 415
    assert (await session.get(f"{page}/page/token")).status == 405


@SHARED
@pytest.mark.parametrize(
    "asked", [{"user": "carol"}, {"user": ""}, {}, {"user": "alice", "lifetime": 9}, {"user": 1}]
)
async def test_there_are_tokens_for_two(
    page: str, session: aiohttp.ClientSession, asked: dict[str, object]
) -> None:
    answer = await session.post(f"{page}/page/token", json=asked, headers={"Origin": page})
    assert answer.status == 400


@SHARED
async def test_its_files(page: str, session: aiohttp.ClientSession) -> None:
    for place in PLACES:
        answer = await session.get(page + place)
        assert answer.status == 200
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert (await session.get(page + place, headers={"Host": "evil.example"})).status == 404


@SHARED
async def test_a_database_that_is_away_is_said(page: str, session: aiohttp.ClientSession) -> None:
    answer = await session.post(f"{page}/page/row", json=ASKED, headers={"Origin": page})
    assert (answer.status, (await answer.json())["code"]) == (503, "DATABASE_UNAVAILABLE")


@SHARED
async def test_the_daemon_has_no_page(shared: Daemon, session: aiohttp.ClientSession) -> None:
    origin = shared.base.partition("/api/")[0]
    for place in PLACES:
        answer = await session.get(origin + place)
        assert (answer.status, (await answer.json())["code"]) == (404, "NOT_FOUND")
    for path in ("/page/token", "/page/row"):
        answer = await session.post(origin + path, json=ASKED, headers={"Origin": origin})
        assert (answer.status, (await answer.json())["code"]) == (404, "NOT_FOUND")


@pytest.mark.prove
def test_nobody_but_custody_dev_has_it() -> None:
    room = "custody.development.page"
    assert offenders((room,), but=(room, "custody.cli.commands.dev")) == []


@pytest.mark.parametrize(
    ("listen", "has"),
    [
        ("127.0.0.1:3001", True),
        ("[::1]:0", True),
        ("localhost:3001", True),
        ("0.0.0.0:3001", False),
        ("[::]:3001", False),
        ("192.0.2.7:3001", False),
        ("vault.example:3001", False),
        ("unix:/run/custody/vault.sock", False),
    ],
)
def test_where_no_network_sees_it(listen: str, has: bool) -> None:
    assert _has_page(listen) is has


def test_it_runs_the_programs_of_the_documents() -> None:
    programs = shown.modules()
    for name in ("records.js", "store.js", "reencrypt.js"):
        about, _, program = (STATIC / name).read_text("utf-8").partition("\n")
        assert about.startswith("// As docs/how-to/")
        assert program == programs[name]
