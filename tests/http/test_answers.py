"""What every answer looks like: headers, problems, fields; and HTTP that is hardly HTTP."""

import asyncio
import base64
import json
import os
import re
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from custody.db.connect import Session
from custody.http.cors import Cors
from custody.http.routes import BASE_PATH, ROUTES
from custody.ops.access_log import AccessLog
from custody.vault.keys import MasterKeys
from custody.vault.rows import VaultRows
from tests import leaks
from tests.client import Client
from tests.http.wire import (
    SHARED,
    assert_problem,
    assert_safe_headers,
    connect,
    exchange,
    first_answer,
    parse,
    request,
)
from tests.servers import Daemon

Device = Callable[[str], Client]

WRAPPED = base64.b64encode(secrets.token_bytes(48)).decode()
IV = base64.b64encode(secrets.token_bytes(12)).decode()
PATHS = {
    path: {route.method for route in ROUTES if route.path == path}
    for path in sorted({route.path for route in ROUTES})
}
LOG = leaks.LOGS / f"process-{os.getpid()}.log"
METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE")


def log_position() -> int:
    return LOG.stat().st_size


def log_since(position: int) -> str:
    return LOG.read_bytes()[position:].decode()


class TestHeaders:
    @pytest.mark.prove
    async def test_on_every_kind_of_answer(self, daemon: Daemon, device: Device) -> None:
        alice, body = device("alice"), {"enable": True}
        token = daemon.issuer.bearer("alice")
        answers = [
            await alice.status(),
            await alice.key(),  # 404
            await alice.init(),
            await alice.key(),
            await alice.call("POST", "/zero-knowledge", body),  # 400
            await alice.set_recovery(WRAPPED, IV),
            await alice.call("POST", "/zero-knowledge", body),
            await alice.key(),
            await alice.rotate(),  # 409
            await alice.rotate('"99"'),  # 412
            await alice.call("POST", "/zero-knowledge", data=b" " * 20_000),  # 413
            await alice.call("POST", "/zero-knowledge", headers={"Content-Type": "text/x"}),  # 415
            await alice.call("PUT", "/key"),  # 405
            await alice.call("GET", "/nothing"),  # 404
            await alice.call("GET", "/key", headers={"Authorization": "Bearer x"}),  # 401
        ]
        raw = (request("GET", "/", {"Authorization": token}), b"nonsense\r\n\r\n")
        for sent in raw:
            answers += parse(await exchange(daemon.base, sent))
        assert {answer.status for answer in answers} == {
            200, 400, 401, 404, 405, 409, 412, 413, 415,
        }  # fmt: skip
        for answer in answers:
            assert_safe_headers(answer)
        ids = [answer.headers.get("X-Request-Id") for answer in answers]
        assert len(set(ids)) == len(ids)

    @SHARED
    @pytest.mark.parametrize("given", ["a", "0123456789abcdef-A.B_c", "x" * 64])
    async def test_plain_request_id_passes_through(self, visitor: Device, given: str) -> None:
        position = log_position()
        answer = await visitor("alice").call("GET", "/key", headers={"X-Request-Id": given})
        assert answer.headers.get("X-Request-Id") == given
        assert f'"request_id": "{given}"' in log_since(position)

    @SHARED
    @pytest.mark.parametrize(
        "given", ["", "x" * 65, "a b", "a;b", '"', "<script>", "a\tb", "caf\u00e9", "\u0661", "%0a"]
    )
    async def test_nasty_request_id_is_replaced(
        self, shared: Daemon, visitor: Device, given: str
    ) -> None:
        position = log_position()
        answer = await visitor("alice").call("GET", "/key", headers={"X-Request-Id": given})
        seen = answer.headers.get("X-Request-Id")
        assert re.fullmatch(r"[0-9a-f]{32}", seen or "")
        log = log_since(position)
        assert f'"request_id": "{seen}"' in log
        assert not given or json.dumps(given)[1:-1] not in log

    async def test_admin_listener(self, daemon: Daemon) -> None:
        for path in ("/livez", "/readyz", "/metrics", "/version", "/nothing"):
            sent = request("GET", path)
            (answer,) = parse(await exchange(daemon.admin, sent))
            assert_safe_headers(answer)
        assert_problem(answer, 404, "NOT_FOUND")


class TestPathsAndMethods:
    @SHARED
    @pytest.mark.parametrize(
        "path",
        [
            "/",
            BASE_PATH,
            f"{BASE_PATH}/",
            *(f"{BASE_PATH}{path}/" for path in PATHS),
            f"/{BASE_PATH}/key",
            f"{BASE_PATH}//key",
            f"{BASE_PATH}/Key",
            f"{BASE_PATH}/key%00",
            f"{BASE_PATH}/key%2f",
            f"{BASE_PATH}/%ff",
            f"{BASE_PATH}/../key",
            f"{BASE_PATH}/x/../key",
            f"{BASE_PATH}/key;x",
            "/api/v1/users/bob/encryption-vault/key",
            "/openapi.json",
            "/metrics",
            "/livez",
        ],
    )
    async def test_unknown_path(self, shared: Daemon, path: str) -> None:
        for method in METHODS:
            for headers in ({}, {"Authorization": shared.issuer.bearer("alice")}):
                sent = request(method, path, headers)
                (answer,) = parse(await exchange(shared.base, sent), head=method == "HEAD")
                assert answer.status == 404, method
                assert_safe_headers(answer)
                if method != "HEAD":
                    assert_problem(answer, 404, "NOT_FOUND")

    @SHARED
    async def test_query_is_ignored(self, visitor: Device) -> None:
        assert (await visitor("alice").call("GET", "/status?user_id=bob&x=%00")).status == 200

    @SHARED
    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("with_token", [True, False])
    async def test_wrong_method(
        self, shared: Daemon, visitor: Device, path: str, with_token: bool
    ) -> None:
        await visitor("alice").init()
        before = await shared.database.audit("alice")
        headers = {"Authorization": shared.issuer.bearer("alice")} if with_token else {}
        for method in set(METHODS) - PATHS[path]:
            sent = request(method, BASE_PATH + path, headers)
            (answer,) = parse(await exchange(shared.base, sent), head=method == "HEAD")
            assert answer.status == 405, method
            assert_safe_headers(answer)
            assert set((answer.headers.get("Allow") or "").split(", ")) == PATHS[path]
            assert answer.headers.get("ETag") is None
            assert answer.headers.get("Access-Control-Allow-Origin") is None
            if method != "HEAD":
                assert_problem(answer, 405, "METHOD_NOT_ALLOWED")
        assert await shared.database.audit("alice") == before


class TestFields:
    @pytest.mark.prove
    async def test_of_every_answer(self, device: Device) -> None:
        alice, began = device("alice"), datetime.now(UTC)
        status = {
            "vaultExists": False,
            "hasRecoveryWrap": False,
            "zeroKnowledge": False,
            "recoverySetAt": None,
        }
        assert (await alice.status()).json == status
        made = (await alice.init()).json
        assert set(made) == {"masterKey", "formatVersion", "kekId"}
        assert len(base64.b64decode(made["masterKey"], validate=True)) == 32
        assert (made["formatVersion"], made["kekId"]) == (3, "env-v1")
        assert (await alice.key()).json == made
        assert (await alice.init()).json == made
        assert (await alice.status()).json == status | {"vaultExists": True}
        rotated = (await alice.rotate()).json
        assert rotated == made | {"masterKey": rotated["masterKey"]} != made
        assert (await alice.set_recovery(WRAPPED, IV)).json == {"ok": True}
        seen = (await alice.status()).json
        at = seen.pop("recoverySetAt")
        assert seen == {"vaultExists": True, "hasRecoveryWrap": True, "zeroKnowledge": False}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", at)
        moment = datetime.fromisoformat(at)
        assert (moment - began).total_seconds() > -5
        assert (datetime.now(UTC) - moment).total_seconds() > -5
        assert (await alice.enable_zk()).json == {"ok": True, "zeroKnowledge": True}
        blob = {
            "requiresRecoveryCode": True,
            "recoveryWrappedMk": WRAPPED,
            "recoveryIv": IV,
            "formatVersion": 1,
        }
        assert (await alice.key()).json == blob
        assert (await alice.init()).json == blob
        assert (await alice.status()).json["zeroKnowledge"] is True
        answer = await alice.disable_zk(rotated["masterKey"])
        assert answer.json == {"ok": True, "zeroKnowledge": False}
        assert (await alice.clear_recovery()).json == {"ok": True}
        assert (await alice.status()).json == status | {"vaultExists": True}

    @pytest.mark.prove
    async def test_every_success_is_a_json_object(self, device: Device) -> None:
        """The browser client parses every 2xx, and sends Content-Type on every call."""
        alice = device("alice")
        key = (await alice.init()).json["masterKey"]
        answers = [
            await alice.status(),
            await alice.key(),
            await alice.init(),
            await alice.set_recovery(WRAPPED, IV),
            await alice.enable_zk(),
            await alice.key(),
            await alice.disable_zk(key),
            await alice.clear_recovery(),
            await alice.rotate(),
        ]
        for answer in answers:
            assert answer.status == 200
            assert answer.headers.get("Content-Type") == "application/json"
            assert isinstance(answer.json, dict)


# Stands for a good token, which must not come back whatever the rest is.
TOKEN = b"<token>"
GOOD = f"GET {BASE_PATH}/key HTTP/1.1\r\n".encode()
GOOD += b"Host: x\r\nAuthorization: Bearer " + TOKEN + b"\r\n"
POST = GOOD.replace(b"GET", b"POST").replace(b"/key", b"/recovery-wrap")
POST += b"Content-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UNREADABLE: dict[str, bytes] = {
    "a token alone": TOKEN + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + TOKEN + b"\r\n\r\n",
    "NULs": b"\0" * 100 + b"\r\n\r\n",
    "HTTP/3 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "strange version": GOOD.replace(b"HTTP/1.1", b"HTTQ/1.1") + b"\r\n",
    "strange method": GOOD.replace(b"GET", b"GE\x00T") + b"\r\n",
    "unknown method": GOOD.replace(b"GET", b"FETCHKEY") + b"\r\n",
    "long header": GOOD + b"X-Token: " + (TOKEN + b" ") * 40 + b"\r\n\r\n",
    "long token": GOOD.replace(b"Bearer ", b"Bearer " + TOKEN * 40) + b"\r\n",
    "long header name": GOOD + TOKEN * 40 + b": x\r\n\r\n",
    "many headers": GOOD + b"X: y\r\n" * 500 + b"\r\n",
    "long path": GOOD.replace(b"/key", b"/key?" + TOKEN * 40) + b"\r\n",
    "header without colon": GOOD + b"Bearer " + TOKEN + b"\r\n\r\n",
    "space before colon": GOOD + b"X : y\r\n\r\n",
    "folded header": GOOD + b"X: y\r\n " + TOKEN + b"\r\n\r\n",
    "NUL in a header": GOOD + b"X: " + TOKEN + b"\0\r\n\r\n",
    "bare CR in a header": GOOD + b"X: " + TOKEN + b"\rY: z\r\n\r\n",
    "no Host": GOOD.replace(b"Host: x\r\n", b"") + b"\r\n",
    "negative length": POST + b"Content-Length: -1\r\n\r\n",
    "length no number": POST + b"Content-Length: " + TOKEN + b"\r\n\r\n",
    "length hexadecimal": POST + b"Content-Length: 0x10\r\n\r\n",
    "length with plus": POST + b"Content-Length: +2\r\n\r\n{}",
    "huge length": POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n{}",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunked": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    "chunked not last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n{}",
    "unknown transfer coding": POST + b"Transfer-Encoding: nonsense\r\n\r\n{}",
    "bad chunk size": CHUNKED + b"zz\r\n" + TOKEN + b"\r\n0\r\n\r\n",
    "negative chunk size": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
    "huge chunk size": CHUNKED + b"f" * 40 + b"\r\n{}\r\n0\r\n\r\n",
    "chunk too short": CHUNKED + b"1\r\n" + TOKEN + b"\r\n0\r\n\r\n",
    "two types": POST + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
}  # fmt: skip


@pytest.mark.prove
class TestHardlyHttp:
    async def test_unreadable(self, daemon: Daemon, device: Device) -> None:
        await device("alice").init()
        before = await daemon.database.audit("alice")
        token = leaks.remember(daemon.issuer.token("alice"))
        payload = token.split(".")[1]
        position = log_position()
        for name, sent in UNREADABLE.items():
            answers = parse(await exchange(daemon.base, sent.replace(TOKEN, token.encode())))
            assert len(answers) == 1, name
            assert answers[0].status == 400, name
            assert_problem(answers[0], 400, "BAD_REQUEST")
            assert payload.encode() not in answers[0].body, name
        assert await daemon.database.audit("alice") == before
        log = log_since(position)
        assert "unreadable_request" in log
        assert payload not in log
        assert (await device("alice").key()).status == 200

    async def test_bad_chunk_after_a_pause(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """aiohttp does not tell whoever reads the body, so the deadline has to end it."""
        monkeypatch.setattr("custody.http.frontend.REQUEST_SECONDS", 0.5)
        head = {
            "Authorization": daemon.issuer.bearer("alice"),
            "Content-Type": "application/json",
            "Transfer-Encoding": "chunked",
        }
        reader, writer = await connect(daemon.base)
        writer.write(request("POST", f"{BASE_PATH}/recovery-wrap", head, b"2\r\n{ \r\n"))
        await asyncio.sleep(0.2)
        writer.write(b"zz\r\n\r\n")
        async with asyncio.timeout(5):
            answer = await first_answer(reader)
        writer.close()
        assert_problem(answer, 400, "BAD_REQUEST")

    async def test_body_broken_off(self, daemon: Daemon, device: Device) -> None:
        """Whoever hangs up in the middle of a body leaves no trace, and the server goes on."""
        await device("alice").init()
        before = await daemon.database.audit("alice")
        position = log_position()
        head = {
            "Authorization": daemon.issuer.bearer("alice"),
            "Content-Type": "application/json",
            "Content-Length": "15",
        }
        for body in (b"", b'{"enable":', b'{"enable":true'):
            _, writer = await connect(daemon.base)
            writer.write(request("POST", f"{BASE_PATH}/zero-knowledge", head, body))
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()
            await writer.wait_closed()
        assert (await device("alice").status()).status == 200
        assert await daemon.database.audit("alice") == before
        assert "internal_error" not in log_since(position)

    @SHARED
    @pytest.mark.parametrize("path", ["/init", "/key", "/recovery-wrap", "/nothing"])
    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_expectation_that_is_unknown(
        self, shared: Daemon, visitor: Device, method: str, path: str
    ) -> None:
        await visitor("alice").init()
        before = await shared.database.audit("alice")
        headers = {"Authorization": shared.issuer.bearer("alice"), "Expect": "the-unexpected"}
        (answer,) = parse(await exchange(shared.base, request(method, BASE_PATH + path, headers)))
        assert_problem(answer, 400, "BAD_REQUEST")
        assert b"unexpected" not in answer.body
        assert await shared.database.audit("alice") == before

    async def test_expect_continue(self, daemon: Daemon) -> None:
        body = b'{"enable":true}'
        headers = {
            "Authorization": daemon.issuer.bearer("alice"),
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Expect": "100-continue",
        }
        sent = request("POST", f"{BASE_PATH}/zero-knowledge", headers, body)
        interim, answer = parse(await exchange(daemon.base, sent))
        assert interim.status == 100
        assert_problem(answer, 404, "VAULT_NOT_INITIALISED")

    async def test_http_1_0(self, daemon: Daemon) -> None:
        sent = (
            f"GET {BASE_PATH}/status HTTP/1.0\r\n"
            f"Authorization: {daemon.issuer.bearer('alice')}\r\n\r\n"
        )
        received = await exchange(daemon.base, sent.encode())
        (answer,) = parse(received)
        # RFC 9110, section 6.2: a server says which version it speaks, not that of the request.
        assert received.startswith(b"HTTP/1.1 200 ")
        assert answer.headers.get("Connection") == "close"
        assert answer.json["vaultExists"] is False
        assert_safe_headers(answer)

    async def test_http_1_0_that_stays(self, daemon: Daemon) -> None:
        sent = (
            f"GET {BASE_PATH}/status HTTP/1.0\r\nConnection: keep-alive\r\n"
            f"Authorization: {daemon.issuer.bearer('alice')}\r\n\r\n"
        ).encode()
        reader, writer = await connect(daemon.base)
        for _ in range(2):
            writer.write(sent)
            answer = await first_answer(reader)
            assert (answer.status, answer.headers.get("Connection")) == (200, "keep-alive")
        writer.close()

    async def test_connection_that_the_client_ends(self, daemon: Daemon) -> None:
        headers = {"Authorization": daemon.issuer.bearer("alice")}
        (answer,) = parse(
            await exchange(daemon.base, request("GET", f"{BASE_PATH}/status", headers))
        )
        assert answer.headers.get("Connection") == "close"
        reader, writer = await connect(daemon.base)
        writer.write(request("GET", f"{BASE_PATH}/status", headers, close=False))
        assert (await first_answer(reader)).headers.get("Connection") is None
        writer.close()

    async def test_date(self, device: Device) -> None:
        answer = await device("alice").status()
        said = parsedate_to_datetime(answer.headers.get("Date") or "")
        assert abs((datetime.now(UTC) - said).total_seconds()) < 60

    async def test_pipelining(self, daemon: Daemon) -> None:
        headers = {"Authorization": daemon.issuer.bearer("alice")}
        keep = [
            request(method, BASE_PATH + path, headers, close=False)
            for method, path in (("POST", "/init"), ("GET", "/key"), ("GET", "/nothing"))
        ]
        last = request("GET", f"{BASE_PATH}/status", headers)
        answers = parse(await exchange(daemon.base, b"".join(keep) + last))
        assert [answer.status for answer in answers] == [200, 200, 404, 200]
        assert answers[0].json == answers[1].json
        assert answers[3].json["vaultExists"] is True
        assert len({answer.headers.get("X-Request-Id") for answer in answers}) == 4

    async def test_garbage_behind_a_request(self, daemon: Daemon) -> None:
        headers = {"Authorization": daemon.issuer.bearer("alice")}
        first = request("GET", f"{BASE_PATH}/status", headers, close=False)
        answers = parse(await exchange(daemon.base, first + b"garbage\r\n\r\n"))
        assert answers[-1].status == 400
        assert [answer.status for answer in answers] in ([200, 400], [400])


def no_memory_for_commit(execute: Callable[..., Awaitable[str]]) -> Callable[..., Awaitable[str]]:
    """Return what executes, and has no memory for the answer to a COMMIT."""

    async def executed(session: Session, sql: str, *parameters: object) -> str:
        done = await execute(session, sql, *parameters)
        if sql == "COMMIT":
            raise MemoryError
        return done

    return executed


class TestInternalError:
    NEEDLE = "needle-of-the-exception"

    @pytest.mark.prove
    async def test_is_opaque_and_audited(
        self, daemon: Daemon, device: Device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alice = device("alice")
        await alice.init()
        before = await daemon.database.audit("alice")

        async def broken(*_args: Any) -> Any:
            raise RuntimeError(self.NEEDLE)

        position = log_position()
        with monkeypatch.context() as patch:
            patch.setattr(MasterKeys, "open", broken)
            patch.setattr(MasterKeys, "mint", broken)
            for call in (alice.key, alice.init, alice.rotate):
                answer = await call()
                assert_problem(answer, 500, "INTERNAL")
                assert self.NEEDLE.encode() not in answer.body
                assert b"RuntimeError" not in answer.body
        log = log_since(position)
        assert self.NEEDLE not in log
        assert "RuntimeError" in log
        assert (answer.headers.get("X-Request-Id") or "-") in log
        assert await daemon.database.audit("alice") == [
            *before,
            ("failed_fetch", "internal", 500),
            ("init", "internal", 500),
            ("rotate", "internal", 500),
        ]
        assert (await alice.key()).status == 200

    @pytest.mark.prove
    async def test_without_memory_it_is_to_be_tried_again(
        self, daemon: Daemon, device: Device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alice = device("alice")
        await alice.init()
        with monkeypatch.context() as patch:
            patch.setattr(MasterKeys, "open", AsyncMock(side_effect=MemoryError))
            answer = await alice.key()
            assert_problem(answer, 503, "OVERLOADED")
            # Where it is of the database: an answer may have come, and was not read.
            patch.setattr(Session, "execute", no_memory_for_commit(Session.execute))
            assert_problem(await alice.rotate(), 503, "OUTCOME_UNKNOWN")
        assert (await daemon.database.audit("alice"))[1:] == [
            ("failed_fetch", "overloaded", 503),
            ("rotate", None, 200),
        ]
        assert (await alice.key()).status == 200

    @pytest.mark.prove
    async def test_without_memory_for_a_response_there_is_none(
        self, daemon: Daemon, device: Device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was done is not denied: who hears nothing asks first."""
        await device("alice").init()
        sent = request(
            "POST", f"{BASE_PATH}/rotate", {"Authorization": daemon.issuer.bearer("alice")}
        )
        with monkeypatch.context() as patch:
            patch.setattr(AccessLog, "record", Mock(side_effect=MemoryError))
            assert [one.status for one in parse(await exchange(daemon.base, sent))] == [200]
            patch.setattr(Cors, "mark", Mock(side_effect=MemoryError))
            assert await exchange(daemon.base, sent) == b""
        assert (await daemon.database.audit("alice"))[1:] == [("rotate", None, 200)] * 2
        assert (await device("alice").key()).status == 200

    @pytest.mark.prove
    async def test_before_any_action(self, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
        async def broken(*_args: Any) -> Any:
            raise RuntimeError(self.NEEDLE)

        monkeypatch.setattr(VaultRows, "read", broken)
        answer = await device("alice").status()
        assert_problem(answer, 500, "INTERNAL")
        assert self.NEEDLE.encode() not in answer.body
