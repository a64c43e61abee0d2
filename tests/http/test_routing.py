"""Which request targets lead to a route, however they are written (RFC 9112, section 3.2)."""

import json
from pathlib import Path

import pytest

from custody.http.openapi import document
from custody.http.routes import BASE_PATH
from tests.client import Answer
from tests.http.wire import SHARED, exchange, parse, request
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

STATUS = f"{BASE_PATH}/status"
ADMIN_PATHS = ("/livez", "/readyz", "/metrics", "/version")


async def ask(
    daemon: Daemon,
    method: str,
    target: str,
    headers: dict[str, str] | None = None,
    base: str | None = None,
) -> list[Answer]:
    """Return all that comes for one request with a token, interim answers too."""
    token = {"Authorization": daemon.issuer.bearer("alice")}
    sent = request(method, target, token | (headers or {}))
    return parse(await exchange(base or daemon.base, sent), head=method == "HEAD")


class TestTargets:
    @SHARED
    @pytest.mark.parametrize(
        "target",
        [
            STATUS,
            f"{STATUS}?",
            f"{STATUS}?user_id=bob#x",
            f"{STATUS}#x",
            f"http://elsewhere{STATUS}",
            f"http://elsewhere:99{STATUS}?x",
            STATUS.replace("/status", "/%73tatus"),
            STATUS.replace("encryption-vault", "encryption%2Dva%75lt"),
        ],
    )
    async def test_that_mean_a_route(self, shared: Daemon, target: str) -> None:
        (answer,) = await ask(shared, "GET", target)
        assert (answer.status, answer.json["vaultExists"]) == (200, False)
        (answer,) = await ask(shared, "POST", target)
        assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")
        assert answer.headers.get("Allow") == "GET"
        (answer,) = await ask(shared, "HEAD", target)
        assert (answer.status, answer.headers.get("Allow")) == (405, "GET")

    @SHARED
    @pytest.mark.parametrize(
        "target",
        [
            f"{STATUS}/",
            f"{STATUS}/?",
            f"{STATUS};x",
            f"{STATUS}%20",
            f"{STATUS}%3f",
            f"{STATUS}%23",
            STATUS.replace("/status", "%2Fstatus"),
            STATUS.replace("/status", "%2fstatus"),
            STATUS.replace("encryption-vault", "encryption%252Dvault"),
            f"/{STATUS}",
            f"//elsewhere{STATUS}",
            f"http://elsewhere/{STATUS}",
            "http://elsewhere",
            "http://elsewhere/",
            "//",
            "/?",
            "/%2F",
            "/%",
            "/openapi%2Ejson",
        ],
    )
    async def test_that_mean_nothing_here(self, shared: Daemon, target: str) -> None:
        for method in ("GET", "POST", "OPTIONS"):
            (answer,) = await ask(shared, method, target)
            assert (answer.status, answer.code) == (404, "NOT_FOUND"), method

    @SHARED
    @pytest.mark.parametrize("target", ["?", "#", "%2F", STATUS[1:], "elsewhere:443", "/a b"])
    async def test_that_are_none(self, shared: Daemon, target: str) -> None:
        for base in (shared.base, shared.admin):
            (answer,) = await ask(shared, "GET", target, base=base)
            assert (answer.status, answer.code) == (400, "BAD_REQUEST")

    @SHARED
    async def test_the_whole_server(self, shared: Daemon) -> None:
        """OPTIONS has ``*`` to itself (RFC 9110, section 9.3.7); nothing here takes it."""
        for base in (shared.base, shared.admin):
            (answer,) = await ask(shared, "OPTIONS", "*", base=base)
            assert (answer.status, answer.code) == (404, "NOT_FOUND")
            (answer,) = await ask(shared, "GET", "*", base=base)
            assert (answer.status, answer.code) == (400, "BAD_REQUEST")


class TestExpect:
    @SHARED
    @pytest.mark.parametrize("target", [STATUS, f"{STATUS}?", f"{STATUS}/"])
    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_continue_comes_first_whatever_follows(
        self, shared: Daemon, method: str, target: str
    ) -> None:
        (alone,) = await ask(shared, method, target)
        interim, answer = await ask(shared, method, target, {"Expect": "100-Continue"})
        assert (interim.status, interim.headers) == (100, {})
        assert (answer.status, answer.body) == (alone.status, alone.body)

    @SHARED
    async def test_nothing_is_expected(self, shared: Daemon) -> None:
        (answer,) = await ask(shared, "GET", STATUS, {"Expect": ""})
        assert answer.status == 200

    @SHARED
    async def test_who_speaks_http_1_0_expects_nothing(self, shared: Daemon) -> None:
        for expectation in ("100-continue", "the-unexpected"):
            sent = (
                f"GET {STATUS} HTTP/1.0\r\nExpect: {expectation}\r\n"
                f"Authorization: {shared.issuer.bearer('alice')}\r\n\r\n"
            )
            (answer,) = parse(await exchange(shared.base, sent.encode()))
            assert answer.status == 200


class TestAdmin:
    @SHARED
    @pytest.mark.parametrize("path", ADMIN_PATHS)
    async def test_get_and_head(self, shared: Daemon, path: str) -> None:
        for target in (path, f"{path}?x", f"http://elsewhere{path}"):
            (answer,) = await ask(shared, "GET", target, base=shared.admin)
            (head,) = await ask(shared, "HEAD", target, base=shared.admin)
            assert answer.status == head.status == 200
            assert answer.headers.get("Content-Type") == head.headers.get("Content-Type")
            assert (int(head.headers.get("Content-Length") or 0) > 0) is (answer.body != b"")
            (answer,) = await ask(shared, "POST", target, base=shared.admin)
            assert (answer.status, answer.headers.get("Allow")) == (405, "GET, HEAD")
        (answer,) = await ask(shared, "GET", f"{path}/", base=shared.admin)
        assert (answer.status, answer.code) == (404, "NOT_FOUND")

    @SHARED
    async def test_bodies(self, shared: Daemon) -> None:
        (live,), (ready,), (version,) = [
            await ask(shared, "GET", path, base=shared.admin)
            for path in ("/livez", "/readyz", "/version")
        ]
        assert live.json == {"live": True}
        assert ready.json["ready"] is True
        assert version.json["name"] == "custody"
        assert live.headers.get("Content-Type") == "application/json; charset=utf-8"

    @SHARED
    async def test_what_it_cannot_read_is_not_repeated(self, shared: Daemon) -> None:
        for sent in (b"secret-nonsense\r\n\r\n", b"GET /livez HTTP/1.1\r\nsecret field: x\r\n\r\n"):
            (answer,) = parse(await exchange(shared.admin, sent))
            assert (answer.status, answer.code) == (400, "BAD_REQUEST")
            assert b"secret" not in answer.body
            assert answer.headers.get("Server") == "custody"
            assert answer.headers.get("Cache-Control") == "no-store"

    @SHARED
    async def test_unknown_expectation(self, shared: Daemon) -> None:
        (answer,) = await ask(
            shared, "GET", "/livez", {"Expect": "the-unexpected"}, base=shared.admin
        )
        assert (answer.status, answer.code) == (400, "BAD_REQUEST")
        assert b"unexpected" not in answer.body

    @SHARED
    async def test_its_requests_are_not_counted(self, shared: Daemon) -> None:
        async def count() -> list[bytes]:
            (shown,) = await ask(shared, "GET", "/metrics", base=shared.admin)
            return [
                line
                for line in shown.body.splitlines()
                if line.startswith((b"custody_requests_total", b"custody_request_seconds_count"))
            ]

        before = await count()
        for path in (*ADMIN_PATHS, "/nothing"):
            await ask(shared, "GET", path, base=shared.admin)
        assert await count() == before


@pytest.mark.prove
async def test_openapi_in_development(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    async with daemon_here(database, issuer, tmp_path, ENV="development") as daemon:
        for target in ("/openapi.json", "/openapi.json?x", "/openapi%2Ejson"):
            (answer,) = await ask(daemon, "GET", target)
            assert json.loads(answer.body) == document()
            (head,) = await ask(daemon, "HEAD", target)
            assert head.status == 200
            assert head.headers.get("Content-Length") == str(len(answer.body))
            (answer,) = await ask(daemon, "DELETE", target)
            assert (answer.status, answer.headers.get("Allow")) == (405, "GET, HEAD")
