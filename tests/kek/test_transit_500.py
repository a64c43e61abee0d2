"""A wrap that does not open is its row's fault, however it is said; a server that is ill is not."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from kek_backends.base import OwnedWrap, Wrap
from kek_backends.binding import Binding
from kek_backends.breaker import FAILURES
from kek_backends.errors import Tampered, Transient, VersionRetired
from kek_backends.transit.kek import TransitKek
from tests.bao_server import Bao, bao_server
from tests.bindings import of
from tests.http_servers import Asked, HttpServer, serving
from tests.kek.kit import failure, opens, transit

KEY = b"this-is-the-plaintext-of-a-user!"
TEXT = "cipher: message authentication failed"
Kek = tuple[TransitKek, list[str]]


@contextmanager
def front(bao: Bao, *, whole: bool) -> Iterator[tuple[str, list[str]]]:
    """Stand before an OpenBao, and answer 500 to a wrap that does not open, as some Vaults do.

    Args:
        bao: the server behind.
        whole: whether one such wrap of a batch fails the whole call, without a word on the others.

    Yields:
        Its URL, and the operations that it is asked for.
    """
    calls: list[str] = []

    def pass_on(asked: Asked) -> None:
        calls.append(asked.path.removeprefix("/v1/transit/").partition("/")[0])
        url, headers = bao.address + asked.path, dict(asked.headers)
        reply = requests.request(asked.command, url, data=asked.body, headers=headers, timeout=10)
        if TEXT not in reply.text:
            asked.say(reply.content, reply.status_code)
        else:
            asked.say(json.dumps({"errors": [TEXT]}).encode() if whole else reply.content, 500)

    with serving(HttpServer(pass_on)) as server:
        yield server.url, calls


@pytest.fixture(params=["single", "batch", "batch that fails as a whole"])
async def kek(bao: Bao, request: pytest.FixtureRequest) -> AsyncIterator[Kek]:
    key = bao.make_key(derived=request.param != "single")
    with front(bao, whole=request.param != "batch") as (url, calls):
        async with transit(bao, key, bao.environ(key) | {"VAULT_ADDR": url}) as backend:
            await backend.refresh()
            yield backend, calls


@pytest.mark.parametrize(
    "other",
    [of("mallory"), of("alice", 8), Binding.of_data_key("alice")],
    ids=["user", "generation", "purpose"],
)
async def test_it_is_tampered_and_tried_once(kek: Kek, other: Binding) -> None:
    backend, calls = kek
    wrap = await backend.wrap(of("alice"), KEY)
    calls.clear()
    with pytest.raises(Tampered, match="the wrap does not open for this binding"):
        await backend.unwrap(other, wrap)
    assert calls == ["decrypt"]
    assert backend.problem is None


async def test_nobody_else_notices(kek: Kek) -> None:
    backend, _ = kek
    wrap = await backend.wrap(of("alice"), KEY)
    for _ in range(10):
        found = await asyncio.gather(
            *(backend.unwrap(of("mallory"), wrap) for _ in range(3)),
            backend.unwrap(of("alice"), wrap),
            return_exceptions=True,
        )
        assert [type(one) for one in found[:3]] == [Tampered] * 3
        assert found[3] == KEY
    assert backend.problem is None


async def test_rewrap_of_a_batch(bao: Bao) -> None:
    key = bao.make_key()
    with front(bao, whole=True) as (url, _):
        async with transit(bao, key, bao.environ(key) | {"VAULT_ADDR": url}) as backend:
            owners = [of(f"user-{n}") for n in range(4)]
            wraps = [OwnedWrap(owner, await backend.wrap(owner, KEY)) for owner in owners]
            bao.rotate(key)
            await backend.refresh()
            wraps[1] = wraps[1]._replace(binding=of("mallory"))
            done = await backend.rewrap(wraps)
    assert [type(one) for one in done] == [Wrap, Tampered, Wrap, Wrap]
    assert {one.kek_id for one in done if isinstance(one, Wrap)} == {f"vault:transit/{key}:v2"}


def damaged(wrap: Wrap) -> Iterator[Wrap]:
    """Yield what somebody who writes rows can make of one."""
    raw = base64.b64decode(wrap.wrapped_mk.removeprefix("vault:v1:"))
    lengths = (0, 1, 11, 12, 13, 27, 28, 29, 59, 61, 3000)
    bodies = [b"\0" * length for length in lengths]
    bodies += [bytes([raw[0] ^ 1]) + raw[1:], raw[:-1], raw[:-1] + bytes([raw[-1] ^ 1]), raw + raw]
    for body in bodies:
        yield wrap._replace(wrapped_mk="vault:v1:" + base64.b64encode(body).decode())
    yield wrap._replace(wrapped_mk=wrap.wrapped_mk + "A")
    for version in ("2", "999999999"):
        yield wrap._replace(
            wrapped_mk=wrap.wrapped_mk.replace("v1", f"v{version}", 1),
            kek_id=wrap.kek_id.removesuffix("1") + version,
        )
    yield wrap._replace(format_version=2)


@pytest.mark.prove
@pytest.mark.parametrize("derived", [True, False], ids=["context", "associated-data"])
async def test_who_writes_rows_shuts_the_kek_for_nobody(bao: Bao, derived: bool) -> None:
    """On a real server: each kind of row more often than the breaker allows."""
    async with transit(bao, bao.make_key(derived=derived)) as kek:
        wrap = await kek.wrap(of("alice"), KEY)
        rows = [(of("alice"), row) for row in damaged(wrap)]
        rows += [
            (of("mallory"), wrap),
            (of("alice", 8), wrap),
            (Binding.of_data_key("alice"), wrap),
        ]
        for owner, row in rows:
            tries = (kek.unwrap(owner, row) for _ in range(FAILURES + 1))
            found = await asyncio.gather(*tries, return_exceptions=True)
            assert {type(one) for one in found} <= {Tampered, VersionRetired}
            assert not kek.is_not_asked
            assert await opens(kek, wrap, KEY)
        await kek.refresh()
        assert kek.problem is None


def damage_storage(folder: Path, key: str) -> None:
    """Flip a bit of all that a server's database has of a key."""
    database = folder / "data" / "vault.db"
    raw, name, at = bytearray(database.read_bytes()), f"/policy/{key}".encode(), 0
    while (at := raw.find(name, at)) >= 0:
        at += len(name)
        raw[at + 40] ^= 1
    database.write_bytes(raw)


@pytest.mark.prove
async def test_a_server_whose_storage_is_damaged_is_an_outage(tmp_path: Path) -> None:
    """It says "message authentication failed" as well, of itself: no row is called tampered."""
    with bao_server(tmp_path) as ill:
        key = ill.make_key()
        async with transit(ill, key) as kek:
            wrap = await kek.wrap(of("alice"), KEY)
            ill.kill()
            damage_storage(tmp_path, key)
            ill.start()
            await is_an_outage(kek, wrap)


ITSELF = "1 error occurred:\n\t* decryption failed: cipher: message authentication failed\n\n"


@pytest.mark.usefixtures("quick")
async def test_its_words_alone_are_enough(bao: Bao) -> None:
    """As the test before, with the answer that such an OpenBao gave."""
    key, ill = bao.make_key(), False

    def pass_on(asked: Asked) -> None:
        if ill:
            asked.say(json.dumps({"errors": [ITSELF]}).encode(), 500)
            return
        url, headers = bao.address + asked.path, dict(asked.headers)
        reply = requests.request(asked.command, url, data=asked.body, headers=headers, timeout=10)
        asked.say(reply.content, reply.status_code)

    with serving(HttpServer(pass_on)) as server:
        async with transit(bao, key, bao.environ(key) | {"VAULT_ADDR": server.url}) as kek:
            wrap = await kek.wrap(of("alice"), KEY)
            ill = True
            await is_an_outage(kek, wrap)


async def is_an_outage(kek: TransitKek, wrap: Wrap) -> None:
    for _ in range(FAILURES):
        error = await failure(kek.unwrap(of("alice"), wrap))
        assert type(error) is Transient
        assert "can't answer now (InternalServerError)" in str(error)
    assert kek.is_not_asked
    assert kek.problem is not None
