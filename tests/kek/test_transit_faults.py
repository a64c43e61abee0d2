"""A real OpenBao that is killed, frozen, sealed, throttling, or behind a broken network."""

import asyncio
import base64
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager

import pytest

from kek_backends import breaker, calls
from kek_backends.base import Wrap
from kek_backends.errors import Denied, KekError, Tampered, Throttled, Transient
from kek_backends.loader import load
from kek_backends.remote import CALL_SECONDS
from kek_backends.transit.kek import TransitKek
from tests.bao_server import Bao
from tests.bindings import of
from tests.eventually import eventually
from tests.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.kek.kit import (
    assert_silent,
    failure,
    held_token,
    no_thread_waits,
    opens,
    short_limits,
    transit,
    transit_kek,
)
from tests.leaks import remember

pytestmark = pytest.mark.usefixtures("known_backends")

KEY = b"this-is-the-plaintext-of-a-user!"
DEADLINE = CALL_SECONDS + 1.0
BACK_WITHIN = 5.0

# While something is broken: how long a try may take, and a call.
Limits = Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=["short", pytest.param("real", marks=pytest.mark.prove)], autouse=True)
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Limits:
    """The limits of custody, and shorter ones, for whatever waits for nothing else."""
    if request.param == "real":
        return contextlib.nullcontext
    monkeypatch.setattr(breaker, "OPEN_SECONDS", 0.2)
    monkeypatch.setattr(calls, "_PAUSE_SECONDS", 0.05)

    return short_limits


@asynccontextmanager
async def prepared(bao: Bao, address: str | None = None) -> AsyncIterator[tuple[TransitKek, Wrap]]:
    key = bao.make_key()
    environ = bao.environ(key) | ({"VAULT_ADDR": address} if address else {})
    async with transit(bao, key, environ) as backend:
        wrap = await backend.wrap(of("alice"), KEY)
        await backend.refresh()
        assert backend.problem is None
        yield backend, wrap


def secrets_of(backend: TransitKek, wrap: Wrap) -> list[str]:
    encoded = base64.b64encode(KEY).decode()
    return [KEY.decode(), encoded, wrap.wrapped_mk, wrap.wrapped_mk[9:], held_token(backend)]


async def fails(backend: TransitKek, wrap: Wrap) -> KekError:
    return await failure(backend.unwrap(of("alice"), wrap), DEADLINE)


async def back(backend: TransitKek, wrap: Wrap) -> None:
    """Service returns without a restart, within five seconds."""
    await eventually(lambda: opens(backend, wrap, KEY), BACK_WITHIN)
    await backend.refresh()
    assert backend.problem is None


@pytest.mark.prove
async def test_killed_and_started_again(own_bao: Bao, sdk_log: pytest.LogCaptureFixture) -> None:
    async with prepared(own_bao) as (backend, wrap):
        own_bao.kill()
        try:
            error = await fails(backend, wrap)
            assert type(error) is Transient
            assert "the server can't be reached" in str(error)
            assert_silent(secrets_of(backend, wrap), error, log=sdk_log.text)
            with pytest.raises(Transient):
                await backend.refresh()
            assert "can't be reached" in (backend.problem or "")
        finally:
            own_bao.start()
        await back(backend, wrap)


@pytest.mark.prove
async def test_frozen_and_thawed(
    own_bao: Bao, limits: Limits, sdk_log: pytest.LogCaptureFixture
) -> None:
    async with prepared(own_bao) as (backend, wrap):
        own_bao.freeze()
        try:
            with limits():
                errors = await asyncio.gather(*(fails(backend, wrap) for _ in range(40)))
            assert {type(error) for error in errors} == {Transient}
            assert_silent(secrets_of(backend, wrap), *errors, log=sdk_log.text)
            # The breaker is open: nobody waits any more, but for the one that tries.
            started = time.monotonic()
            with limits():
                quick = await asyncio.gather(*(fails(backend, wrap) for _ in range(5)))
            assert sum("not asked" in str(error) for error in quick) >= 4
            assert time.monotonic() - started < DEADLINE
        finally:
            own_bao.thaw()
        await back(backend, wrap)


async def test_who_gives_up_while_it_is_frozen_takes_no_other_along(own_bao: Bao) -> None:
    async with prepared(own_bao) as (backend, wrap):
        own_bao.freeze()
        try:
            calls = [asyncio.ensure_future(backend.unwrap(of("alice"), wrap)) for _ in range(60)]
            await asyncio.sleep(0.3)
            for call in calls[::2]:
                call.cancel()
            await asyncio.sleep(0.1)
        finally:
            own_bao.thaw()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results[::2]} == {asyncio.CancelledError}
        assert results[1::2] == [KEY] * 30


@pytest.mark.prove
async def test_killed_under_load(own_bao: Bao, sdk_log: pytest.LogCaptureFixture) -> None:
    """Each of many concurrent calls ends in time, with the key or with a reason."""
    async with prepared(own_bao) as (backend, wrap):
        ended: list[object] = []

        async def call() -> None:
            while not any(isinstance(one, KekError) for one in ended):
                started = time.monotonic()
                try:
                    ended.append(await backend.unwrap(of("alice"), wrap))
                except KekError as error:
                    ended.append(error)
                assert time.monotonic() - started < DEADLINE

        calls = [asyncio.ensure_future(call()) for _ in range(64)]
        await eventually(lambda: len(ended) > len(calls))
        own_bao.kill()
        try:
            await asyncio.gather(*calls)
        finally:
            own_bao.start()
        errors = [one for one in ended if isinstance(one, KekError)]
        assert [one for one in ended if one == KEY]
        assert {type(error) for error in errors} == {Transient}
        assert_silent(secrets_of(backend, wrap), *errors, log=sdk_log.text)
        await back(backend, wrap)


@pytest.mark.prove
async def test_sealed_and_unsealed(own_bao: Bao) -> None:
    async with prepared(own_bao) as (backend, wrap):
        own_bao.ask("PUT", "sys/seal")
        try:
            error = await fails(backend, wrap)
            assert type(error) is Transient
            assert "can't answer now (VaultDown)" in str(error)
        finally:
            own_bao.unseal()
        await back(backend, wrap)


async def test_quota(own_bao: Bao) -> None:
    async with prepared(own_bao) as (backend, wrap):
        # One call in ten seconds, and it is used up: thirty unwraps may share the next one.
        quota = {"path": "transit/", "rate": 1, "interval": "10s"}
        own_bao.ask("POST", "sys/quotas/rate-limit/small", quota)
        await backend.unwrap(of("alice"), wrap)
        try:
            results = await asyncio.gather(
                *(backend.unwrap(of("alice"), wrap) for _ in range(30)), return_exceptions=True
            )
            errors = [result for result in results if isinstance(result, Exception)]
            assert errors
            assert {type(error) for error in errors} <= {Throttled, Transient}
            assert Throttled in {type(error) for error in errors}
        finally:
            own_bao.ask("DELETE", "sys/quotas/rate-limit/small")
        await back(backend, wrap)


@pytest.fixture
def proxy(bao: Bao) -> Iterator[FaultyProxy]:
    with faulty_proxy(bao.port) as running:
        yield running


@pytest.mark.prove
@pytest.mark.parametrize(
    "fault", [fault for fault in Fault if fault not in {Fault.NONE, Fault.SLOW}]
)
async def test_broken_network(
    bao: Bao, proxy: FaultyProxy, fault: Fault, limits: Limits, sdk_log: pytest.LogCaptureFixture
) -> None:
    async with prepared(bao, proxy.address) as (backend, wrap):
        proxy.fault = fault
        with limits():
            errors = await asyncio.gather(*(fails(backend, wrap) for _ in range(20)))
        assert {type(error) for error in errors} == {Transient}
        assert_silent(secrets_of(backend, wrap), *errors, log=sdk_log.text)
        with limits(), pytest.raises(Transient):
            await backend.refresh()
        assert backend.problem is not None
        proxy.fault = Fault.NONE
        await back(backend, wrap)


@pytest.mark.prove
async def test_no_thread_is_left_hanging(bao: Bao, proxy: FaultyProxy, limits: Limits) -> None:
    """The fault stays, and yet every thread comes back: the answer is cut off, not waited for."""
    async with prepared(bao, proxy.address) as (backend, wrap):
        proxy.fault = Fault.DRIP
        with limits():
            await asyncio.gather(*(fails(backend, wrap) for _ in range(20)))
        await eventually(lambda: no_thread_waits(backend), DEADLINE)


async def test_a_refusal_says_nothing_secret(bao: Bao, sdk_log: pytest.LogCaptureFixture) -> None:
    key = bao.make_key()
    environ = bao.environ(key)
    backend = transit_kek(key, environ)
    wrap = await backend.wrap(of("alice"), KEY)
    with pytest.raises(Tampered) as tampered:
        await backend.unwrap(of("bob"), wrap)
    assert_silent(secrets_of(backend, wrap), tampered.value, log=sdk_log.text)
    bao.revoke(environ["VAULT_TOKEN"])
    with pytest.raises(Denied) as denied:
        await backend.unwrap(of("alice"), wrap)
    assert_silent(secrets_of(backend, wrap), denied.value, log=sdk_log.text)
    await backend.close()


async def test_another_server_at_the_address(limits: Limits) -> None:
    """One that speaks no HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        environ = {
            "VAULT_ADDR": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "VAULT_TOKEN": remember("s.token-for-another-server"),
        }
        backend = load("vault:transit/key", environ=environ, development=False)
        with limits(), pytest.raises(KekError):
            await backend.refresh()
        assert backend.problem is not None
        await backend.close()
