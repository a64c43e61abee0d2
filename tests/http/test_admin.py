"""The admin listener with a token: who is let in, and what the others see."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from custody.console.page import STATIC
from custody.console.routes import Console
from custody.http import attempts
from custody.http.access import Access
from custody.http.admin import Admin
from tests.client import Answer
from tests.http.wire import SHARED, exchange, parse
from tests.leaks import remember
from tests.ports import free_port
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

TOKEN = remember("Zx0._~+/=-" + "0123456789abcdef" * 3)
OPEN, GUARDED = ("/livez", "/readyz"), ("/metrics", "/version")
# The form, and what a page needs that asks for the token.
DOOR = ("/login", "/logout", *(f"/static/{name}" for name in STATIC))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(
    module_database: Database, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Daemon]:
    folder = tmp_path_factory.mktemp("guarded")
    with pytest.MonkeyPatch.context() as patch:
        # More wrong tokens than anybody has: tests/http/test_console.py has the limit.
        patch.setattr(attempts, "BURST", 100_000)
        # On loopback too: it is asked for where it is set.
        async with daemon_here(module_database, issuer, folder, ADMIN_TOKEN=TOKEN) as daemon:
            yield daemon


async def ask(
    daemon: Daemon, path: str, *authorization: str | bytes, method: str = "GET"
) -> Answer:
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: test", b"Connection: close"]
    lines += [
        b"Authorization: " + (one if isinstance(one, bytes) else one.encode())
        for one in authorization
    ]
    sent = b"\r\n".join(lines) + b"\r\n\r\n"
    (answer,) = parse(await exchange(daemon.admin, sent), head=method == "HEAD")
    return answer


LET_IN: tuple[str, ...] = (
    f"Bearer {TOKEN}",
    f"bearer {TOKEN}",
    f"BEARER {TOKEN}",
    f"Bearer   {TOKEN}  ",
)
# What is sent, and whether a token was among it.
TURNED_AWAY: dict[str, tuple[str | bytes, ...]] = {
    "nothing": (),
    "empty": ("",),
    "the scheme alone": ("Bearer",),
    "the scheme and a space": ("Bearer ",),
    "another token": (f"Bearer {'x' * len(TOKEN)}",),
    "its beginning": (f"Bearer {TOKEN[:-1]}",),
    "its end": (f"Bearer {TOKEN[1:]}",),
    "one letter": (f"Bearer {TOKEN[0]}",),
    "more than it": (f"Bearer {TOKEN}x",),
    "twice in one": (f"Bearer {TOKEN} {TOKEN}",),
    "in another case": (f"Bearer {TOKEN.swapcase()}",),
    "without the scheme": (TOKEN,),
    "without the space": (f"Bearer{TOKEN}",),
    "with a comma": (f"Bearer,{TOKEN}",),
    "Basic": (f"Basic {TOKEN}",),
    "Digest": (f"Digest {TOKEN}",),
    "in quotes": (f'Bearer "{TOKEN}"',),
    "no ASCII": (f"Bearer {TOKEN}\u00e9",),
    "no UTF-8": (b"Bearer \xff\xfe" + TOKEN.encode(),),
    "two of them": (f"Bearer {TOKEN}", f"Bearer {TOKEN}"),
    "beside another": (f"Bearer {TOKEN}", "Basic x"),
    "very long": (f"Bearer {TOKEN}{'x' * 4000}",),
}


@SHARED
@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize("authorization", LET_IN)
async def test_who_has_the_token_is_let_in(guarded: Daemon, path: str, authorization: str) -> None:
    assert (await ask(guarded, path, authorization)).status == 200
    assert (await ask(guarded, path, authorization, method="HEAD")).status == 200


@SHARED
@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize("name", TURNED_AWAY)
async def test_who_has_not_is_turned_away(guarded: Daemon, path: str, name: str) -> None:
    sent = TURNED_AWAY[name]
    answer = await ask(guarded, path, *sent)
    assert answer.status == 401
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.json["code"] == "UNAUTHORIZED"
    assert TOKEN not in f"{answer.headers} {answer.body!r}"
    assert (await ask(guarded, path, *sent, method="HEAD")).status == 401


@SHARED
@pytest.mark.parametrize("name", TURNED_AWAY)
async def test_probes_are_open(guarded: Daemon, name: str) -> None:
    for path in OPEN:
        assert (await ask(guarded, path, *TURNED_AWAY[name])).status == 200


@SHARED
async def test_what_is_not_there(guarded: Daemon) -> None:
    for sent in ((), (f"Bearer {TOKEN}",)):
        assert (await ask(guarded, "/nothing", *sent)).status == 404
        assert (await ask(guarded, "/metrics", *sent, method="POST")).status == 405


@SHARED
async def test_all_but_the_probes_want_it(guarded: Daemon) -> None:
    """Whatever is added, too."""
    nobody: Any = None
    access = Access(SecretStr(TOKEN))
    table = Admin(nobody, nobody, nobody, access).table() | Console(nobody, access).table()
    statuses = {path: (await ask(guarded, path, method=method)).status for method, path in table}
    wants_it = statuses.keys() - {*OPEN, *DOOR}
    assert {path for path, status in statuses.items() if status == 401} == wants_it
    assert wants_it == {*GUARDED, "/", "/events"}


async def test_reasons_are_for_who_has_the_token(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    down = f"http://127.0.0.1:{free_port()}/jwks"
    given = {"JWKS_FILE": "", "JWKS_URL": down, "ADMIN_TOKEN": TOKEN}
    async with daemon_here(database, issuer, tmp_path, **given) as daemon:
        told = await ask(daemon, "/readyz", f"Bearer {TOKEN}")
        assert "is the issuer up?" in told.json["parts"]["jwks"]
        for sent in ((), (f"Bearer {TOKEN[:-1]}",)):
            answer = await ask(daemon, "/readyz", *sent)
            assert answer.status == told.status == 503
            assert answer.json["ready"] is False
            assert answer.json["parts"] == told.json["parts"] | {"jwks": "failing"}


async def test_without_a_token_nothing_is_asked_for(daemon: Daemon) -> None:
    for path in (*OPEN, *GUARDED):
        assert (await ask(daemon, path)).status == 200
        assert (await ask(daemon, path, "Basic x")).status == 200
