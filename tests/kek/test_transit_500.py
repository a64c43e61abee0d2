"""A wrap that does not open, answered with HTTP 500: its row's fault, and not an outage."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import requests

from kek_backends.base import OwnedWrap, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import Tampered
from kek_backends.transit.kek import TransitKek
from tests.bao_server import Bao
from tests.bindings import of
from tests.http_servers import Asked, HttpServer, serving
from tests.kek.kit import transit

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
            wraps[1] = replace(wraps[1], binding=of("mallory"))
            done = await backend.rewrap(wraps)
    assert [type(one) for one in done] == [Wrap, Tampered, Wrap, Wrap]
    assert {one.kek_id for one in done if isinstance(one, Wrap)} == {f"vault:transit/{key}:v2"}
