"""Smuggling by way of a proxy: what two servers read differently must hurt nobody else."""

import asyncio
import itertools
import json
import re
from asyncio import StreamWriter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import TypeAlias

import pytest

from custody.http.routes import BASE_PATH
from tests.client import Client, generation_of
from tests.e2e.front import Front
from tests.e2e.http2 import outcome, request_frames
from tests.eventually import eventually
from tests.http.wire import SHARED
from tests.leaks import remember
from tests.proxies import HOST
from tests.smuggling import Build, Hidden, attempts

pytestmark = SHARED

_LONGEST_SECONDS = 15
_SEVERAL = 8
_ROTATED = (
    "SELECT user_id FROM auth.encryption_vault_audit"
    " WHERE user_id LIKE $1 AND action NOT IN ('init', 'fetch', 'failed_fetch')"
)
_ABSENT = "-absent-"


class Victim:
    """An honest user, who asks for her key after each attempt.

    Args:
        client: hers.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.asked = 0

    async def begin(self) -> None:
        """Make her vault."""
        made = await self._client.init()
        self._key, self._generation = made.json["masterKey"], generation_of(made)

    async def asks(self, name: str) -> str:
        """Ask for her key, and get it, as an answer to what she has asked.

        Returns:
            The id of her request.
        """
        self.asked += 1
        identity = f"{self._client.user}-{self.asked}"
        answer = await self._client.call("GET", "/key", headers={"X-Request-Id": identity})
        assert answer.status == 200, name
        assert answer.headers["X-Request-Id"] == identity, name
        assert answer.json["masterKey"] == self._key, name
        assert generation_of(answer) == self._generation, name
        return identity

    async def was_left_alone(self) -> None:
        """She has the rows of her own requests, and no others."""
        trail = await self._client.daemon.database.audit(self._client.user)
        assert trail == [("init", "created", 200), *[("fetch", None, 200)] * self.asked]


# Sends it, and waits for what comes of it; the connection is left open.
Attempt: TypeAlias = Callable[[Hidden], Awaitable[StreamWriter]]


async def withstand(at: Front, kind: str, tried: Mapping[str, Attempt]) -> None:
    """Make all attempts, each open and whole, and have a victim ask after each."""
    kind = f"{at.proxy.kind}-{kind}"
    # Several, so that nobody meets the limit of an address or of a user.
    tokens = [remember(at.behind.issuer.bearer(f"mallory-{kind}-{n}")) for n in range(_SEVERAL)]
    async with AsyncExitStack() as devices:
        victims = [
            Victim(await devices.enter_async_context(at.client(f"victim-{kind}-{n}")))
            for n in range(_SEVERAL)
        ]
        for victim in victims:
            await victim.begin()
        turns, opened = itertools.cycle(victims), []
        for n, (name, attempt) in enumerate(tried.items()):
            for whole in (False, True):
                hidden = Hidden(f"{kind}-{n}-{whole}", tokens[n % _SEVERAL], whole=whole)
                async with asyncio.timeout(_LONGEST_SECONDS):
                    writer = await attempt(hidden)
                victim = next(turns)
                await victim.asks(name)
                opened.append(writer)
        # The daemon's log has all that came before it.
        last = await victim.asks("the end")
        await eventually(lambda: all_was_known_to_the_proxy(at, kind, last))
        for writer in opened:
            writer.transport.abort()
        for victim in victims:
            await victim.asks("the end of all connections")
            await victim.was_left_alone()
    # Nothing that was hidden ran for anybody: open, it is a rotation.
    assert await at.behind.database.fetch(_ROTATED, f"mallory-{kind}-%") == []
    # The test would see nothing if they had never shared a connection.
    both = (f"outer-{kind}".encode(), f"victim-{kind}-".encode())
    assert any(all(who in asked for who in both) for asked in at.tap.asked)


def all_was_known_to_the_proxy(at: Front, kind: str, last: str) -> bool:
    """What the daemon took for a request of mallory's was one to the proxy, too; once."""
    taken = [str(event["request_id"]) for event in at.behind.events("request")]
    assert last in taken
    mallorys = [one for one in taken if re.match(f"(hidden|outer)-{kind}", one)]
    assert mallorys
    assert len(mallorys) == len(set(mallorys))
    known = set(re.split(r"[\s{}|]+", at.proxy.log()))
    assert {one for one in mallorys if one.startswith("hidden")} <= known
    return True


def in_http_1(at: Front, build: Build) -> Attempt:
    async def attempt(hidden: Hidden) -> StreamWriter:
        reader, writer = await at.connect()
        writer.write(build(hidden))
        # An answer, or the end of the connection.
        with suppress(ConnectionError):
            await reader.read(1)
        return writer

    return attempt


def in_http_2(at: Front, *fields: tuple[str, str], body: str = "", path: str = "/init") -> Attempt:
    """An attempt by fields that come after, or instead of, what a request has; ``@`` is hidden."""

    async def attempt(hidden: Hidden) -> StreamWriter:
        inside = bytes(hidden)
        usual = {":method": "POST", ":scheme": "https", ":authority": HOST}
        usual |= {":path": BASE_PATH + path}
        given = {**usual, "authorization": hidden.token, "x-request-id": f"outer-{hidden.name}"}
        instead = dict(field for field in fields if field[0] in given)
        more = [field for field in fields if field[0] not in given]
        written = [
            (name.encode(), value.encode("latin-1").replace(b"@", inside))
            for name, value in [*(given | instead).items(), *more]
            if value != _ABSENT
        ]
        reader, writer = await at.connect("h2")
        writer.write(request_frames(written, body.encode().replace(b"@", inside)))
        await outcome(reader)
        return writer

    return attempt


HTTP_2: Mapping[str, tuple[tuple[tuple[str, str], ...], str]] = {
    "a line end in a value": ((("x-line", "a\r\n\r\n@"),), ""),
    "a line feed in a value": ((("x-line", "a\n\n@"),), ""),
    "a carriage return in a value": ((("x-line", "a\r@"),), ""),
    "a NUL in a value": ((("x-line", "a\0@"),), ""),
    "a line end in a name": ((("x-line\r\n\r\nGET", "a"),), ""),
    "a colon in a name": ((("x-line: a\r\ntransfer-encoding", "chunked"),), "0\r\n\r\n@"),
    "a space in a name": ((("transfer-encoding ", "chunked"),), "0\r\n\r\n@"),
    "an upper-case name": ((("Transfer-Encoding", "chunked"),), "0\r\n\r\n@"),
    "an empty name": ((("", "chunked"),), "0\r\n\r\n@"),
    "chunks": ((("transfer-encoding", "chunked"),), "0\r\n\r\n@"),
    "chunks, and a length": (
        (("transfer-encoding", "chunked"), ("content-length", "5")),
        "0\r\n\r\n@",
    ),
    "connection": ((("connection", "transfer-encoding"), ("te", "chunked")), "0\r\n\r\n@"),
    "upgrade": ((("upgrade", "h2c"), ("connection", "upgrade")), "@"),
    "a length of none": ((("content-length", "0"),), "@"),
    "a length that is too short": ((("content-length", "4"),), "abcd@"),
    "a length that is too long": ((("content-length", "9000"),), "@"),
    "two lengths": ((("content-length", "0"), ("content-length ", "4")), "@"),
    "a length with a line end": ((("content-length", "0\r\n\r\n@"),), "@"),
    "a line end in the path": (((":path", f"{BASE_PATH}/init HTTP/1.1\r\n\r\n@"),), ""),
    "a space in the path": (((":path", f"{BASE_PATH}/init HTTP/1.1 x"),), ""),
    "an empty path": (((":path", ""),), "@"),
    "no path": (((":path", _ABSENT),), "@"),
    "a line end in the method": (((":method", "GET / HTTP/1.1\r\n\r\n@\r\nPOST"),), ""),
    "a space in the method": (((":method", f"GET {BASE_PATH}/key HTTP/1.1 POST"),), ""),
    "a line end in the authority": (((":authority", f"{HOST}\r\n\r\n@"),), ""),
    "another host": ((("host", "127.0.0.1:3002"),), "@"),
    "another scheme": (((":scheme", f"http://127.0.0.1{BASE_PATH}/key?"),), "@"),
    "a pseudo-field at the end": (((":x", "y"),), "@"),
    "a field for the answer": (((":status", "200"),), "@"),
}


@pytest.mark.prove
async def test_http_1(at: Front) -> None:
    tried = {name: in_http_1(at, build) for name, build in attempts()}
    assert len(tried) >= 40
    await withstand(at, "one", tried)


@pytest.mark.prove
async def test_http_2(at: Front) -> None:
    tried = {name: in_http_2(at, *fields, body=body) for name, (fields, body) in HTTP_2.items()}
    await withstand(at, "two", tried)


async def test_http_2_by_hand_is_a_request(at: Front) -> None:
    """The control: what the attempts are made of is answered, where nothing is wrong with it."""
    token = remember(at.behind.issuer.bearer("by hand"))
    usual = [(":method", "POST"), (":scheme", "https"), (":authority", HOST)]
    usual += [(":path", f"{BASE_PATH}/init"), ("authorization", token), ("content-length", "2")]
    fields = [(name.encode(), value.encode()) for name, value in usual]
    reader, writer = await at.connect("h2")
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    writer.write(request_frames(fields, b"{}"))
    came = await outcome(reader)
    writer.close()
    assert came.status == 200
    assert set(json.loads(came.body)) == {"masterKey", "formatVersion", "kekId"}
    remember(json.loads(came.body)["masterKey"])
