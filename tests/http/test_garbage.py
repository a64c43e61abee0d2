"""Refusals leave nothing that only a look through all memory finds: everybody waits for that."""

import gc
from collections import Counter
from collections.abc import Iterator

import pytest
from aiohttp import web

from custody.http.problems import Problem
from custody.http.routes import BASE_PATH
from custody.vault.errors import VaultError
from tests.http.wire import SHARED, connect, first_answer, request
from tests.servers import Daemon

MANY = 20


@pytest.fixture
def kept() -> Iterator[list[object]]:
    """Keeps what the collector finds for the length of a test, instead of freeing it."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.prove
@SHARED
@pytest.mark.parametrize(
    ("call", "user", "status"),
    [
        ("GET /status", None, 401),
        ("GET /key", "nobody-here", 404),
        ("GET /nothing", "nobody-here", 404),
        ("POST /zero-knowledge", "nobody-here", 415),
    ],
)
async def test_a_refused_request_is_freed_at_once(
    shared: Daemon, kept: list[object], call: str, user: str | None, status: int
) -> None:
    method, path = call.split()
    headers = {"Authorization": shared.issuer.bearer(user)} if user else {}
    reader, writer = await connect(shared.base)
    for _ in range(MANY):
        writer.write(request(method, f"{BASE_PATH}{path}", headers, close=False))
        assert (await first_answer(reader)).status == status
    gc.collect()
    found = Counter(type(one) for one in kept)
    writer.close()
    for kind in (Problem, VaultError, web.BaseRequest):
        assert not sum(number for one, number in found.items() if issubclass(one, kind)), found
