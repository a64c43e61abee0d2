"""The issuer's keys: reading them, fetching them, and keeping them through an outage."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.utils import base64url_decode
from structlog.testing import capture_logs

from custody.auth.http_source import http_source
from custody.auth.jwk import JwksError, parse_jwks
from custody.auth.jwks import MAX_WAITERS, IssuerUnavailable, JwksCache
from custody.auth.sources import file_source
from tests.certificates import make_certificate
from tests.tokens import ABSENT, Issuer, b64
from tests.unit.served_jwks import ServedJwks, jwks

P = 2**255 - 19
ORDER_8_Y = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
CANONICAL_LOW_ORDER = [
    *[(y | sign << 255) for y in (0, ORDER_8_Y, P - ORDER_8_Y) for sign in (0, 1)],
    1,
    P - 1,
]
# With those below, the 14 encodings of the 8 points of low order.
NON_CANONICAL_LOW_ORDER = [
    1 | 1 << 255,
    P - 1 | 1 << 255,
    *[P + y | sign << 255 for y in (0, 1) for sign in (0, 1)],
]


def _kids(document: bytes) -> list[str | None]:
    return [key.kid for key in parse_jwks(document)]


class TestParse:
    def test_key_is_the_published_one(self, issuer: Issuer) -> None:
        current, standby = parse_jwks(issuer.jwks())
        assert current.kid == "key-1"
        assert current.key == issuer.key.public_key()
        assert standby.key == issuer.standby_key.public_key()

    @pytest.mark.parametrize(
        "members",
        [
            {"alg": ABSENT, "use": ABSENT},
            {"alg": "Ed25519"},
            {"key_ops": ["verify"]},
            {"key_ops": ["sign", "verify"]},
            {"x5t": "ignored"},
            {"alg": None},
            {"use": None},
            {"key_ops": None},
            {"x5c": None, "d": None},
        ],
    )
    def test_usable(self, issuer: Issuer, members: dict[str, object]) -> None:
        assert _kids(jwks(issuer.jwk(**members))) == ["key-1"]

    def test_without_kid(self, issuer: Issuer) -> None:
        for kid in (ABSENT, None):
            (key,) = parse_jwks(jwks(issuer.jwk(kid=kid)))
            assert (key.kid, key.alone) == (None, True)

    def test_byte_order_mark(self, issuer: Issuer) -> None:
        assert parse_jwks(b"\xef\xbb\xbf" + issuer.jwks()) == parse_jwks(issuer.jwks())

    @pytest.mark.parametrize("other", [{}, {"alg": "Ed25519"}, {"use": None}, {"use": ABSENT}])
    def test_key_that_is_listed_twice_alike(self, issuer: Issuer, other: dict[str, object]) -> None:
        twice = [issuer.jwk(), issuer.jwk(**other)]
        (key,) = parse_jwks(jwks(*twice))
        assert (key.kid, key.alone) == ("key-1", True)
        beside = parse_jwks(jwks(*twice, Issuer().jwk(kid="other")))
        assert [(key.kid, key.alone) for key in beside] == [("key-1", False), ("other", False)]

    def test_key_that_is_listed_twice_beside_one_of_another_kind(self, issuer: Issuer) -> None:
        (key,) = parse_jwks(jwks(issuer.jwk(), issuer.jwk(), {"kty": "RSA"}))
        assert (key.kid, key.alone) == ("key-1", False)

    @pytest.mark.parametrize(
        "members",
        [
            {"kty": "EC"},
            {"kty": ABSENT},
            {"kty": None},
            {"x": None},
            {"crv": "Ed448"},
            {"crv": "X25519"},
            {"use": "enc"},
            {"alg": "ES256"},
            {"key_ops": ["sign"]},
            {"key_ops": "verify"},
            {"kid": 1},
            {"x": ABSENT},
            {"x": 1},
            {"x": b64(b"\x07" * 31)},
            {"x": b64(b"\x07" * 33)},
            {"x": "\u00e9" * 43},
        ],
    )
    def test_skipped(self, issuer: Issuer, members: dict[str, object]) -> None:
        assert _kids(jwks(issuer.jwk(**members), issuer.jwk(kid="good"))) == ["good"]
        assert parse_jwks(jwks(issuer.jwk(**members))) == ()

    @pytest.mark.parametrize("respell", [lambda x: x + "=", lambda x: x[:-1] + chr(ord(x[-1]) + 1)])
    def test_point_spelled_otherwise(self, issuer: Issuer, respell: Callable[[str], str]) -> None:
        x = respell(str(issuer.jwk()["x"]))
        assert base64url_decode(x[:43]) == issuer.key.public_key().public_bytes_raw()
        assert parse_jwks(jwks(issuer.jwk(x=x))) == ()

    def test_entries_that_are_no_keys(self, issuer: Issuer) -> None:
        assert _kids(jwks(None, 1, "key", [issuer.jwk(kid="nested")], issuer.jwk())) == ["key-1"]

    @pytest.mark.parametrize("kid", ["twice", ABSENT])
    def test_two_keys_with_one_kid(self, issuer: Issuer, kid: object) -> None:
        twice = [issuer.jwk(kid=kid), Issuer().jwk(kid=kid)]
        assert _kids(jwks(*twice, issuer.jwk(kid="once"))) == ["once"]
        assert parse_jwks(jwks(*twice)) == ()

    @pytest.mark.parametrize("kty", ["OKP", "RSA"])
    def test_private_key_is_an_alarm(self, issuer: Issuer, kty: str) -> None:
        with pytest.raises(JwksError, match="private key") as alarm:
            parse_jwks(jwks(issuer.jwk(kid="good"), {"kty": kty, "d": "c2VjcmV0"}))
        assert "c2VjcmV0" not in str(alarm.value)

    @pytest.mark.parametrize("point", CANONICAL_LOW_ORDER + NON_CANONICAL_LOW_ORDER)
    def test_point_of_low_order(self, issuer: Issuer, point: int) -> None:
        weak = issuer.jwk(x=b64(point.to_bytes(32, "little")), kid="weak")
        assert _kids(jwks(weak, issuer.jwk())) == ["key-1"]

    @pytest.mark.parametrize("point", CANONICAL_LOW_ORDER)
    def test_low_order_is_what_a_forger_wants(self, point: int) -> None:
        key = Ed25519PublicKey.from_public_bytes(point.to_bytes(32, "little"))
        neutral = (1).to_bytes(32, "little")
        verified = 0
        for n in range(200):
            with suppress(InvalidSignature):
                key.verify(neutral + bytes(32), bytes([n]))
                verified += 1
        assert verified

    @pytest.mark.parametrize("y", range(P, 2**255))
    def test_point_not_reduced(self, issuer: Issuer, y: int) -> None:
        for point in (y, y | 1 << 255):
            unreduced = issuer.jwk(x=b64(point.to_bytes(32, "little")), kid="unreduced")
            assert _kids(jwks(unreduced, issuer.jwk())) == ["key-1"]

    @pytest.mark.parametrize(
        "document",
        [
            b"",
            b"<html>",
            b"null",
            b"[]",
            b"{}",
            b'{"keys":{}}',
            b'{"keys":[],"keys":[]}',
            b'{"keys":[NaN]}',
            b'{"keys":[]}\xff',
            b"\xef\xbb\xbf" * 2 + b'{"keys":[]}',
            b'{"keys":null}',
            b"[" * 100_000,
            b'{"keys":' * 50_000,
            '{"keys":[]}'.encode("utf-16"),
        ],
    )
    def test_not_a_jwks(self, document: bytes) -> None:
        with pytest.raises(JwksError):
            parse_jwks(document)

    def test_member_twice(self, issuer: Issuer) -> None:
        document = issuer.jwks().replace(b'"kty":"OKP"', b'"kty":"OKP","kty":"OKP"')
        with pytest.raises(JwksError, match="JSON"):
            parse_jwks(document)


def served(*kids: str) -> ServedJwks:
    issuer = Issuer()
    return ServedJwks(issuer, jwks(*(issuer.jwk(kid=kid) for kid in kids)))


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def fake() -> AsyncIterator[ServedJwks]:
    fake = served("a", "b")
    yield fake
    await fake.cache.close()


class TestCache:
    async def test_first_request_fetches(self, fake: ServedJwks) -> None:
        assert await fake.knows("a")
        assert await fake.knows("b")
        assert fake.fetches == 1

    async def test_no_kid(self, fake: ServedJwks) -> None:
        assert not await fake.knows(None)
        assert not await fake.knows(None)
        fake.publish("only")
        await fake.cache.refresh()
        assert await fake.knows(None)
        assert fake.fetches == 2

    async def test_unknown_kid_twice_in_any_minute(self, fake: ServedJwks) -> None:
        await fake.cache.refresh()
        for at, fetches in [(0, 2), (30, 3), (31, 3), (59.9, 3), (60, 4), (89, 4), (90, 5)]:
            fake.clock.now = 1000.0 + at
            assert not await fake.knows("new")
            assert fake.fetches == fetches

    async def test_unknown_kid_finds_the_new_key(self, fake: ServedJwks) -> None:
        await fake.cache.refresh()
        fake.publish("new")
        assert await fake.knows("new")
        assert not await fake.knows("a")

    async def test_unknown_kid_in_an_outage_keeps_the_keys(self, fake: ServedJwks) -> None:
        await fake.cache.refresh()
        fake.problem = JwksError("down")
        assert not await fake.knows("new")
        assert await fake.knows("a")

    async def test_one_fetch_for_all(self, fake: ServedJwks) -> None:
        fake.gate = asyncio.Event()
        waiting = [asyncio.create_task(fake.knows("a")) for _ in range(50)]
        await _settle()
        fake.gate.set()
        assert all(await asyncio.gather(*waiting))
        assert fake.fetches == 1

    async def test_one_fetch_for_all_unknown(self, fake: ServedJwks) -> None:
        await fake.cache.refresh()
        fake.publish("new")
        fake.gate = asyncio.Event()
        waiting = [asyncio.create_task(fake.knows("new")) for _ in range(50)]
        await _settle()
        fake.gate.set()
        assert all(await asyncio.gather(*waiting))
        assert fake.fetches == 2

    @pytest.mark.parametrize("known", [True, False], ids=["unknown kid", "no JWKS yet"])
    async def test_who_waits_is_bounded(self, fake: ServedJwks, *, known: bool) -> None:
        """Made-up names of keys, while the issuer hangs, can't fill the daemon."""
        if known:
            await fake.cache.refresh()
        fake.gate = asyncio.Event()
        waiting = [asyncio.create_task(fake.knows("new")) for _ in range(MAX_WAITERS)]
        await _settle()
        for _ in range(3):
            with pytest.raises(IssuerUnavailable, match="too many wait"):
                await fake.cache.key_for("new")
        if known:
            assert await fake.knows("a")
        waiting.pop().cancel()
        await _settle()
        last = asyncio.create_task(fake.knows("new"))
        await _settle()
        assert not last.done()
        fake.publish("new")
        fake.gate.set()
        assert all(await asyncio.gather(last, *waiting))
        assert fake.fetches == 1 + known

    async def test_cancelled_waiter_leaves_the_fetch(self, fake: ServedJwks) -> None:
        fake.gate = asyncio.Event()
        first, second = (asyncio.create_task(fake.knows("a")) for _ in range(2))
        await _settle()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        fake.gate.set()
        assert await second
        assert fake.fetches == 1

    async def test_failure_that_nobody_awaits(self, fake: ServedJwks) -> None:
        fake.gate, fake.problem = asyncio.Event(), JwksError("down")
        only = asyncio.create_task(fake.knows("a"))
        await _settle()
        only.cancel()
        fake.gate.set()
        await _settle()
        with pytest.raises(IssuerUnavailable):
            await fake.cache.key_for("a")
        assert fake.fetches == 1

    async def test_outage_then_cure(self, fake: ServedJwks) -> None:
        fake.problem = OSError("down")
        for at, fetches in [(0, 1), (0.5, 1), (0.9, 1), (1, 2), (1.5, 2)]:
            fake.clock.now = 1000.0 + at
            with pytest.raises(IssuerUnavailable):
                await fake.cache.key_for("a")
            assert fake.cache.problem
            assert fake.fetches == fetches
        fake.problem = None
        fake.clock.now += 1
        assert await fake.knows("a")
        assert fake.cache.problem is None

    async def test_request_joins_the_attempt_under_way(self, fake: ServedJwks) -> None:
        fake.problem = OSError("down")
        with pytest.raises(JwksError):
            await fake.cache.refresh()
        fake.gate, fake.problem = asyncio.Event(), None
        refresh = asyncio.create_task(fake.cache.refresh())
        await _settle()
        request = asyncio.create_task(fake.knows("a"))
        await _settle()
        fake.gate.set()
        await refresh
        assert await request
        assert fake.fetches == 2

    async def test_never_had_is_not_young(self) -> None:
        async def outage() -> bytes:
            raise OSError("down")

        cache = JwksCache(fetch=outage, source="test", max_age=float("inf"))
        assert cache.problem
        with pytest.raises(IssuerUnavailable):
            await cache.key_for("a")
        await cache.close()

    async def test_becomes_ready_without_requests(self, fake: ServedJwks) -> None:
        fake.problem = OSError("down")
        with pytest.raises(JwksError):
            await fake.cache.refresh()
        fake.problem = None
        assert fake.cache.problem
        await _settle()
        assert fake.fetches == 1
        fake.clock.now += 1
        assert fake.cache.problem
        await _settle()
        assert fake.cache.problem is None

    async def test_background_refresh_makes_no_request_wait(self, fake: ServedJwks) -> None:
        await fake.cache.refresh()
        fake.publish("b")
        fake.clock.now += 300
        assert await fake.knows("a")
        await _settle()
        assert fake.fetches == 1
        fake.gate = asyncio.Event()
        fake.clock.now += 1
        assert await fake.knows("a")
        fake.gate.set()
        await _settle()
        assert not await fake.knows("a")
        assert await fake.knows("b")

    async def test_background_failures_are_spaced(self, fake: ServedJwks) -> None:
        await fake.cache.refresh()
        fake.problem = JwksError("down")
        for _ in range(60):
            fake.clock.now += 10
            assert await fake.knows("a")
            await _settle()
        assert 10 < fake.fetches < 30

    async def test_too_old(self, fake: ServedJwks) -> None:
        await fake.cache.refresh()
        fake.problem = JwksError("down")
        fake.clock.now += 86400
        assert await fake.knows("a")
        await _settle()
        fake.clock.now += 1
        assert fake.cache.problem
        with pytest.raises(IssuerUnavailable, match="down"):
            await fake.cache.key_for("a")
        fake.problem = None
        fake.clock.now += 1
        assert await fake.knows("a")

    async def test_age_counts_from_before_the_fetch(self, fake: ServedJwks) -> None:
        fake.gate = asyncio.Event()
        refresh = asyncio.create_task(fake.cache.refresh())
        await _settle()
        fake.clock.now += 5
        fake.gate.set()
        await refresh
        fake.problem = JwksError("down")
        fake.clock.now += 86400 - 4
        assert fake.cache.problem

    async def test_garbage_keeps_the_keys(self, fake: ServedJwks) -> None:
        await fake.cache.refresh()
        fake.document = b'{"keys":{}}'
        with pytest.raises(JwksError, match=r"^JWKS https://i/jwks has no list"):
            await fake.cache.refresh()
        assert await fake.knows("a")

    async def test_withdrawn_keys_are_withdrawn(self, fake: ServedJwks) -> None:
        """A key that was stolen must not sign on because the issuer has no other one."""
        await fake.cache.refresh()
        fake.document = b'{"keys":[]}'
        await fake.cache.refresh()
        assert not await fake.knows("a")
        assert not fake.cache.keys
        assert "has no usable Ed25519 key" in (fake.cache.problem or "")

    async def test_withdrawn_keys_are_withdrawn_within_five_minutes(self, fake: ServedJwks) -> None:
        await fake.cache.refresh()
        fake.document = b'{"keys":[]}'
        fake.clock.now += 300
        assert await fake.knows("a")
        fake.clock.now += 0.1
        await fake.knows("a")  # begins the refresh that is due
        await _settle()
        assert not await fake.knows("a")

    async def test_refresh_brings_the_document_of_now(self, fake: ServedJwks) -> None:
        fake.gate = asyncio.Event()
        request = asyncio.create_task(fake.knows("a"))
        await _settle()
        refresh = asyncio.create_task(fake.cache.refresh())
        await _settle()
        fake.gate.set()
        assert await request
        await refresh
        assert fake.fetches == 2

    @pytest.mark.parametrize(
        ("problem", "text"),
        [
            (JwksError("JWKS https://i/jwks answered 500"), "JWKS https://i/jwks answered 500"),
            (ValueError("part of the document"), "JWKS https://i/jwks: ValueError"),
        ],
    )
    async def test_failure_is_logged_once(
        self, fake: ServedJwks, problem: Exception, text: str
    ) -> None:
        fake.problem = problem
        with capture_logs() as logs, pytest.raises(JwksError):
            await fake.cache.refresh()
        assert logs == [
            {
                "event": "jwks_refresh_failed",
                "log_level": "warning",
                "source": "https://i/jwks",
                "error": text,
            }
        ]

    async def test_stuck_source_gives_up_its_turn(
        self, fake: ServedJwks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("custody.auth.jwks._SOURCE_TIMEOUT", 0.05)
        fake.gate = asyncio.Event()
        with pytest.raises(JwksError, match="TimeoutError"):
            await fake.cache.refresh()

    async def test_another_source_changes_nothing_before_it_is_put_in_force(
        self, fake: ServedJwks
    ) -> None:
        await fake.cache.refresh()
        other = served("c")
        put_in_force = await fake.cache.read_from(other.fetch, "https://j/jwks")
        assert (await fake.knows("a"), other.fetches) == (True, 1)
        put_in_force()
        assert await fake.knows("c")
        assert not await fake.knows("a")
        assert (fake.fetches, other.fetches) == (1, 2)
        other.problem = JwksError("down")
        with capture_logs() as logs, pytest.raises(JwksError):
            await fake.cache.refresh()
        assert [line["source"] for line in logs] == ["https://j/jwks"]
        await other.cache.close()

    @pytest.mark.parametrize("problem", [JwksError("JWKS https://j/jwks down"), OSError("down")])
    async def test_source_that_can_not_be_had_changes_nothing(
        self, fake: ServedJwks, problem: Exception
    ) -> None:
        await fake.cache.refresh()
        other = served("c")
        other.problem = problem
        with pytest.raises(JwksError, match=r"^JWKS https://j/jwks"):
            await fake.cache.read_from(other.fetch, "https://j/jwks")
        other.problem = None
        # A place that is new and has no key is a mistake; one in use has withdrawn its keys.
        for document in (b"{}", b'{"keys":[]}'):
            other.document = document
            with pytest.raises(JwksError, match=r"^JWKS https://j/jwks"):
                await fake.cache.read_from(other.fetch, "https://j/jwks")
        fake.publish("d")
        await fake.cache.refresh()
        assert await fake.knows("d")
        await other.cache.close()

    async def test_keys_that_the_source_in_use_has_withdrawn_are_gone_at_a_reload(
        self, fake: ServedJwks
    ) -> None:
        await fake.cache.refresh()
        fake.document = b'{"keys":[]}'
        (await fake.cache.read_from(fake.fetch, "https://i/jwks"))()
        assert not await fake.knows("a")

    async def test_refresh_from_the_old_source_does_not_undo_the_new_one(
        self, fake: ServedJwks
    ) -> None:
        await fake.cache.refresh()
        other = served("c")
        fake.gate = asyncio.Event()
        under_way = asyncio.create_task(fake.cache.refresh())
        await _settle()
        (await fake.cache.read_from(other.fetch, "https://j/jwks"))()
        assert await fake.knows("c")
        fake.gate.set()
        await under_way
        assert await fake.knows("c")
        assert not await fake.knows("a")
        await other.cache.close()

    async def test_age_of_another_source_counts_from_before_the_fetch(
        self, fake: ServedJwks
    ) -> None:
        other = served("c")
        other.gate = asyncio.Event()
        reading = asyncio.create_task(fake.cache.read_from(other.fetch, "https://j/jwks"))
        await _settle()
        fake.clock.now += 5
        other.gate.set()
        (await reading)()
        assert fake.cache.problem is None
        other.problem = JwksError("down")
        fake.clock.now += 86400 - 4
        assert fake.cache.problem
        await other.cache.close()

    async def test_close_lets_waiters_go(self, fake: ServedJwks) -> None:
        fake.gate = asyncio.Event()
        waiting = asyncio.create_task(fake.cache.key_for("a"))
        await _settle()
        await fake.cache.close()
        with pytest.raises(IssuerUnavailable):
            await waiting
        await fake.cache.close()


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[Callable[[], Awaitable[bytes]]]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def start(handler: Handler) -> Callable[[], Awaitable[bytes]]:
            app = web.Application()
            app.add_routes([web.get("/jwks", handler), web.get("/other", _good)])
            server = await stack.enter_async_context(TestServer(app))
            return http_source(session, str(server.make_url("/jwks")))

        yield start


async def _good(_request: web.Request) -> web.Response:
    return web.json_response({"keys": []})


def certified(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*make_certificate(folder))
    return context


class TestHttpSource:
    async def test_document(self, serve: Serve) -> None:
        fetch = await serve(_good)
        assert await fetch() == b'{"keys": []}'

    @pytest.mark.parametrize("status", [201, 204, 301, 302, 307, 308, 401, 404, 500, 503])
    async def test_only_200(self, serve: Serve, status: int) -> None:
        async def handler(_request: web.Request) -> web.Response:
            return web.Response(status=status, headers={"Location": "/other"})

        with pytest.raises(JwksError, match=rf"/jwks answered {status} .*CUSTODY_JWKS_URL"):
            await (await serve(handler))()

    @pytest.mark.parametrize(("size", "fits"), [(256 * 1024, True), (256 * 1024 + 1, False)])
    async def test_size(self, serve: Serve, size: int, fits: bool) -> None:
        async def handler(_request: web.Request) -> web.Response:
            return web.Response(body=bytes(size))

        fetch = await serve(handler)
        if fits:
            assert len(await fetch()) == size
        else:
            with pytest.raises(JwksError, match="over 256 KiB"):
                await fetch()

    async def test_stream_without_end(self, serve: Serve) -> None:
        sent = 0

        async def handler(request: web.Request) -> web.StreamResponse:
            nonlocal sent
            response = web.StreamResponse()
            await response.prepare(request)
            while sent < 2**30:
                await response.write(bytes(65536))
                sent += 65536
            return response

        with pytest.raises(JwksError, match="over 256 KiB"):
            await (await serve(handler))()
        assert sent < 2**27

    async def test_compressed_stream(self, serve: Serve) -> None:
        async def handler(_request: web.Request) -> web.Response:
            response = web.Response(body=bytes(2**24))
            response.enable_compression(web.ContentCoding.gzip)
            return response

        with pytest.raises(JwksError, match="over 256 KiB"):
            await (await serve(handler))()

    async def test_slow(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(40):
                await response.write(b" ")
                await asyncio.sleep(0.05)
            return response

        monkeypatch.setattr("custody.auth.http_source._FETCH_TIMEOUT", 0.2)
        with pytest.raises(JwksError, match="TimeoutError"):
            await (await serve(handler))()

    async def test_cut_short(self, serve: Serve) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b'{"keys":[]}')
            assert request.transport is not None
            request.transport.close()
            return response

        with pytest.raises(JwksError, match="ClientPayloadError"):
            await (await serve(handler))()

    async def test_not_http(self, unused_tcp_port: int) -> None:
        async def garbage(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"secret-token\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(garbage, "127.0.0.1", unused_tcp_port)
        async with server, aiohttp.ClientSession() as session:
            with pytest.raises(JwksError) as failure:
                await http_source(session, f"http://127.0.0.1:{unused_tcp_port}/jwks")()
        assert "secret-token" not in str(failure.value)

    async def test_nobody_there(self, unused_tcp_port: int) -> None:
        url = f"http://user:secret@127.0.0.1:{unused_tcp_port}/jwks?token=secret"
        async with aiohttp.ClientSession() as session:
            with pytest.raises(JwksError, match=r"127.0.0.1.*/jwks.*issuer is up") as failure:
                await http_source(session, url)()
        assert "secret" not in str(failure.value)

    async def test_host_that_is_not_known(self) -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(
                JwksError, match=r"name\.invalid: .*; check the host in CUSTODY_JWKS"
            ):
                await http_source(session, "https://name.invalid/jwks")()

    async def test_nobody_listens(self) -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(JwksError, match=r"127\.0\.0\.1: port 1: Connection refused; check"):
                await http_source(session, "http://127.0.0.1:1/jwks")()

    async def test_tls_to_a_plain_port(self) -> None:
        app = web.Application()
        app.router.add_get("/jwks", _good)
        server = TestServer(app)
        await server.start_server()
        async with aiohttp.ClientSession() as session:
            with pytest.raises(JwksError, match=r"127\.0\.0\.1: the port speaks no TLS"):
                await http_source(session, f"https://127.0.0.1:{server.port}/jwks")()
        await server.close()

    async def test_plain_to_a_tls_port(self, tmp_path: Path) -> None:
        app = web.Application()
        server = TestServer(app, scheme="https")
        await server.start_server(ssl=certified(tmp_path))
        async with aiohttp.ClientSession() as session:
            with pytest.raises(JwksError, match=r"no answer in HTTP came; .*http: or https:"):
                await http_source(session, f"http://127.0.0.1:{server.port}/jwks")()
        await server.close()

    async def test_closed_session(self) -> None:
        async with aiohttp.ClientSession() as session:
            fetch = http_source(session, "http://127.0.0.1:1/jwks")
        with pytest.raises(JwksError):
            await fetch()

    async def test_certificate_is_checked(self, tmp_path: Path) -> None:
        app = web.Application()
        app.router.add_get("/jwks", _good)
        server = TestServer(app, scheme="https")
        await server.start_server(ssl=certified(tmp_path))
        async with aiohttp.ClientSession() as session:
            with pytest.raises(JwksError, match="the certificate is not trusted"):
                await http_source(session, str(server.make_url("/jwks")))()
        await server.close()


class TestFileSource:
    async def test_read_anew_each_time(self, tmp_path: Path) -> None:
        path = tmp_path / "jwks.json"
        fetch = file_source(path)
        with pytest.raises(
            JwksError, match=r"jwks.json: No such file or directory; .*CUSTODY_JWKS_FILE"
        ):
            await fetch()
        path.write_bytes(b"1")
        assert await fetch() == b"1"
        path.write_bytes(b"2")
        assert await fetch() == b"2"

    async def test_size(self, tmp_path: Path) -> None:
        path = tmp_path / "jwks.json"
        path.write_bytes(bytes(256 * 1024))
        assert len(await file_source(path)()) == 256 * 1024
        path.write_bytes(bytes(256 * 1024 + 1))
        with pytest.raises(JwksError, match="over 256 KiB"):
            await file_source(path)()

    async def test_not_a_file(self, tmp_path: Path) -> None:
        for path in (tmp_path, Path("/dev/zero")):
            with pytest.raises(JwksError, match="is not a file"):
                await file_source(path)()
