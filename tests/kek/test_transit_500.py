"""A wrap that does not open, answered with HTTP 500: its row's fault, and not an outage."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from kek_backends.base import OwnedWrap, Wrap
from kek_backends.errors import Tampered
from kek_backends.transit.kek import TransitKek
from tests.bao_server import Bao
from tests.http_servers import serving
from tests.kek.kit import transit
from tests.kek.transit_front import Front

KEY = b"this-is-the-plaintext-of-a-user!"
Kek = tuple[TransitKek, Front]


@pytest.fixture(params=["single", "batch", "batch that fails as a whole"])
async def kek(bao: Bao, request: pytest.FixtureRequest) -> AsyncIterator[Kek]:
    key = bao.make_key(derived=request.param != "single")
    with serving(Front(bao, whole=request.param != "batch")) as front:
        environ = bao.environ(key) | {"VAULT_ADDR": front.url}
        async with transit(bao, key, environ) as backend:
            await backend.refresh()
            yield backend, front


async def test_it_is_tampered_and_tried_once(kek: Kek) -> None:
    backend, front = kek
    wrap = await backend.wrap("alice", KEY)
    front.calls.clear()
    with pytest.raises(Tampered, match="the wrap does not open for this user"):
        await backend.unwrap("mallory", wrap)
    assert front.calls == ["decrypt"]
    assert backend.problem is None


async def test_nobody_else_notices(kek: Kek) -> None:
    backend, _ = kek
    wrap = await backend.wrap("alice", KEY)
    for _ in range(10):
        found = await asyncio.gather(
            *(backend.unwrap("mallory", wrap) for _ in range(3)),
            backend.unwrap("alice", wrap),
            return_exceptions=True,
        )
        assert [type(one) for one in found[:3]] == [Tampered] * 3
        assert found[3] == KEY
    assert backend.problem is None


async def test_rewrap_of_a_batch(bao: Bao) -> None:
    key = bao.make_key()
    with serving(Front(bao, whole=True)) as front:
        environ = bao.environ(key) | {"VAULT_ADDR": front.url}
        async with transit(bao, key, environ) as backend:
            wraps = [OwnedWrap(f"user-{n}", await backend.wrap(f"user-{n}", KEY)) for n in range(4)]
            bao.rotate(key)
            await backend.refresh()
            wraps[1] = replace(wraps[1], user_id="mallory")
            done = await backend.rewrap(wraps)
    assert [type(one) for one in done] == [Wrap, Tampered, Wrap, Wrap]
    assert {one.kek_id for one in done if isinstance(one, Wrap)} == {f"vault:transit/{key}:v2"}
