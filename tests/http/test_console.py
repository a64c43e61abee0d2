"""The console on a daemon: the way in and out, its streams, and what it never shows."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from custody.console import reading, streams
from custody.console.page import PARTS, STATIC
from custody.http import attempts, server
from tests.client import Client, client_session
from tests.eventually import eventually
from tests.http.wire import SHARED
from tests.leaks import remember
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

TOKEN = remember("0123456789abcdef" * 3)
HTML = {"Accept": "text/html,*/*"}
USER = "somebody@example.org"
PAUSES = (
    (streams, "EVERY_SECONDS"),
    (reading, "_SECONDS"),
    (reading, "_RECORDS_SECONDS"),
    (reading, "_COUNT_SECONDS"),
    (reading, "_COUNT_SPARE"),
)
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(
    module_database: Database, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Daemon]:
    folder = tmp_path_factory.mktemp("guarded-console")
    rewrap = module_database.url("custody_rewrap")
    given = {"ADMIN_TOKEN": TOKEN, "REWRAP_DATABASE_URL": rewrap, "REWRAP_INTERVAL": "0"}
    with pytest.MonkeyPatch.context() as patch:
        for module, name in PAUSES:
            patch.setattr(module, name, 0.05)
        async with daemon_here(module_database, issuer, folder, **given) as daemon:
            yield daemon


@pytest_asyncio.fixture(loop_scope="module")
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar, headers=HTML) as session:
        yield session


async def log_in(
    browser: aiohttp.ClientSession, daemon: Daemon, token: str = TOKEN, **headers: str
) -> aiohttp.ClientResponse:
    named = {"Origin": daemon.admin} | {k.replace("_", "-"): v for k, v in headers.items()}
    answer = await browser.post(
        f"{daemon.admin}/login", data={"token": token}, headers=named, allow_redirects=False
    )
    await answer.read()
    return answer


@pytest.mark.prove
@SHARED
async def test_the_way_in_and_out(guarded: Daemon, browser: aiohttp.ClientSession) -> None:
    asked = await browser.get(f"{guarded.admin}/")
    assert asked.status == 401
    assert asked.headers["Content-Security-Policy"] == POLICY
    assert 'action="/login"' in await asked.text()
    let_in = await log_in(browser, guarded)
    assert (let_in.status, let_in.headers["Location"]) == (303, "/")
    assert TOKEN not in str(let_in.headers)
    shown = await browser.get(f"{guarded.admin}/")
    assert shown.status == 200
    assert shown.headers["Content-Security-Policy"] == POLICY
    assert shown.headers["Cache-Control"] == "no-store"
    assert "Keys and rows" in await shown.text()
    assert (await browser.get(f"{guarded.admin}/metrics")).status == 200
    out = await browser.post(
        f"{guarded.admin}/logout", headers={"Origin": guarded.admin}, allow_redirects=False
    )
    assert out.status == 303
    assert (await browser.get(f"{guarded.admin}/")).status == 401


@SHARED
async def test_the_token_in_a_header_is_enough(guarded: Daemon) -> None:
    async with aiohttp.ClientSession() as plain:
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert (await plain.get(f"{guarded.admin}/", headers=bearer)).status == 200
        refused = await plain.get(f"{guarded.admin}/")
        assert (refused.status, (await refused.json())["code"]) == (401, "UNAUTHORIZED")


@SHARED
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
    ids=str,
)
async def test_a_form_of_another_site_is_refused(
    guarded: Daemon, browser: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    assert (await log_in(browser, guarded, **headers)).status == 403
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    out = await browser.post(f"{guarded.admin}/logout", headers=named, allow_redirects=False)
    assert (out.status, out.headers.get("Set-Cookie")) == (403, None)
    assert (await browser.get(f"{guarded.admin}/")).status == 401


@SHARED
async def test_by_https_the_cookie_is_secure(
    guarded: Daemon, browser: aiohttp.ClientSession
) -> None:
    plain = await log_in(browser, guarded)
    assert "; Secure" not in plain.headers["Set-Cookie"]
    by_proxy = await log_in(
        browser, guarded, Origin="https://ops.example.org", Sec_Fetch_Site="same-origin"
    )
    assert "; Secure" in by_proxy.headers["Set-Cookie"]


@SHARED
@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"token=", "application/x-www-form-urlencoded", 401),
        (b"token=%ff%fe", "application/x-www-form-urlencoded", 401),
        (b"token=%ED%A0%80", "application/x-www-form-urlencoded", 401),
        (b"", "application/x-www-form-urlencoded", 400),
        (b"token=a&token=b", "application/x-www-form-urlencoded", 400),
        (b"other=a", "application/x-www-form-urlencoded", 400),
        (b"\xff\xfe", "application/x-www-form-urlencoded", 400),
        (b"token=" + b"x" * 20_000, "application/x-www-form-urlencoded", 413),
        (b'{"token": "x"}', "application/json", 415),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_garbage_in_the_form(
    guarded: Daemon,
    browser: aiohttp.ClientSession,
    body: bytes,
    media_type: str,
    status: int,
) -> None:
    headers = {"Origin": guarded.admin, "Content-Type": media_type}
    answer = await browser.post(f"{guarded.admin}/login", data=body, headers=headers)
    assert answer.status == status


@SHARED
async def test_wrong_tokens_are_bounded(
    guarded: Daemon, browser: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "BURST", 0)
    wrong = await log_in(browser, guarded, "wrong")
    refused = await log_in(browser, guarded)
    assert (wrong.status, refused.status) in {(401, 429), (429, 429)}
    assert int(refused.headers["Retry-After"]) >= 1
    assert "Too many wrong tokens" in await refused.text()
    ready = await browser.get(f"{guarded.admin}/readyz")
    assert ready.status == 200


@SHARED
@pytest.mark.parametrize("name", STATIC)
async def test_its_files(guarded: Daemon, browser: aiohttp.ClientSession, name: str) -> None:
    answer = await browser.get(f"{guarded.admin}/static/{name}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, STATIC[name])
    assert await answer.read()
    for other in ("console.html", "../page.py", "%2e%2e/page.py", ""):
        path = URL(f"{guarded.admin}/static/{other}", encoded=True)
        assert (await browser.get(path)).status == 404


async def read_events(answer: aiohttp.ClientResponse, wanted: set[str]) -> dict[str, str]:
    """Read a stream until all of these events have come."""
    found: dict[str, str] = {}
    name, data = "", ""
    while not wanted <= found.keys():
        line = (await answer.content.readline()).decode()
        assert line, "the stream has ended"
        if line.startswith("event: "):
            name, data = line[7:].strip(), ""
        elif line.startswith("data: "):
            data += line[6:]
        elif name:
            found[name] = data
    return found


@SHARED
async def test_a_stream_sends_every_part_and_then_what_changes(
    guarded: Daemon, browser: aiohttp.ClientSession
) -> None:
    await log_in(browser, guarded)
    async with browser.get(f"{guarded.admin}/events") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert "Content-Length" not in answer.headers
        first = await read_events(answer, {*PARTS, "time"})
        assert "Keys and rows" in first["tree"]
        again = await read_events(answer, {"time"})
        assert "tree" not in again
        async with client_session() as session:
            await Client(guarded, session, "a-new-one").init()
        assert "rows with a wrap" in (await read_events(answer, {"tree"}))["tree"]


@SHARED
async def test_streams_are_bounded(
    guarded: Daemon, browser: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MOST", 2)
    await log_in(browser, guarded)

    async def open_one() -> aiohttp.ClientResponse | None:
        answer = await browser.get(f"{guarded.admin}/events")
        return answer if answer.status == 200 else None

    # Those of other tests may not be over yet.
    both = [await eventually(open_one), await eventually(open_one)]
    refused = await browser.get(f"{guarded.admin}/events")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "2")
    for one in both:
        assert one is not None
        one.close()
    last = await eventually(open_one)
    assert last is not None
    last.close()


@SHARED
async def test_a_stream_has_an_end(
    guarded: Daemon, browser: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LONGEST_SECONDS", 0.01)
    await log_in(browser, guarded)
    async with browser.get(f"{guarded.admin}/events") as answer:
        assert b"retry: 3000" in await answer.read()


@pytest.mark.prove
async def test_open_streams_hold_up_no_stop(
    database: Database, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What does not end by itself is waited for longer than a test may take.
    monkeypatch.setattr(server, "SHUTDOWN_SECONDS", 1000.0)
    async with aiohttp.ClientSession() as session:
        async with daemon_here(database, issuer, tmp_path) as daemon:
            opened = [await session.get(f"{daemon.admin}/events") for _ in range(3)]
            for one in opened:
                await read_events(one, {"time"})
        for one in opened:
            await one.read()
            assert one.content.exception() is None


@pytest.mark.prove
async def test_a_name_of_a_stranger_leads_to_nothing(daemon: Daemon) -> None:
    async with aiohttp.ClientSession(headers=HTML) as session:
        for host, status in (
            ("evil.example:3002", 403),
            ("localhost.evil.example", 403),
            ("localhost:3002", 200),
            ("127.0.0.1", 200),
            ("[::1]:3002", 200),
            ("192.0.2.7", 200),
        ):
            shown = await session.get(f"{daemon.admin}/", headers={"Host": host})
            assert shown.status == status, host
        events = await session.get(f"{daemon.admin}/events", headers={"Host": "evil.example"})
        assert events.status == 404
        without = await session.post(
            f"{daemon.admin}/login", data={"token": "x"}, headers={"Origin": daemon.admin}
        )
        assert without.status == 404


@pytest.mark.prove
async def test_no_key_no_user_and_no_token_is_shown(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    rewrap = database.url("custody_rewrap")
    given = {"ADMIN_TOKEN": TOKEN, "REWRAP_DATABASE_URL": rewrap, "REWRAP_INTERVAL": "0"}
    async with (
        daemon_here(database, issuer, tmp_path, **given) as daemon,
        client_session() as session,
    ):
        device = Client(daemon, session, USER)
        key = (await device.init()).json["masterKey"]
        row = await database.vault(USER)
        # A row that was tampered with, too: its user is in the log, and nowhere else.
        await database.execute("UPDATE auth.encryption_vaults SET key_check = 'x' || key_check")
        await device.call("GET", "/key")
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        async with session.get(f"{daemon.admin}/", headers=bearer) as shown:
            page = await shown.text()
        async with session.get(f"{daemon.admin}/events", headers=bearer) as answer:
            sent = json.dumps(await read_events(answer, {*PARTS}))
    secrets = [TOKEN, key, USER, row["wrapped_mk"], row["wrap_iv"], row["key_check"], row["seal"]]
    secrets += [daemon.settings["MANA_AUTH_KEK"], daemon.settings["CUSTODY_DATABASE_URL"]]
    secrets += [re.sub(r".*:(.*)@.*", r"\1", rewrap)]
    for secret in secrets:
        assert secret not in page
        assert secret not in sent
