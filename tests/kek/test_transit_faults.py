"""A real OpenBao that is killed, frozen, sealed, throttling, or behind a broken network."""

import asyncio
import base64
import contextlib
import logging
import socket
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from kek_backends import breaker, calls
from kek_backends.base import KekBackend, Wrap
from kek_backends.errors import Denied, KekError, Misconfigured, Tampered, Throttled, Transient
from kek_backends.loader import load
from kek_backends.remote import CALL_SECONDS
from tests.bao_server import Bao, bao_server
from tests.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.kek.test_transit_login import held_token
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

    @contextmanager
    def short() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(calls, "ATTEMPT_SECONDS", 0.4)
            patch.setattr(calls, "CALL_SECONDS", 0.9)
            yield

    return short


@pytest.fixture(scope="module")
def own_bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    """A server that these tests may kill: others share theirs."""
    with bao_server(tmp_path_factory.mktemp("own-bao")) as server:
        yield server


@pytest.fixture
def sdk_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Everything that hvac, requests and urllib3 log, at debug level."""
    for name in ("hvac", "requests", "urllib3", ""):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


@asynccontextmanager
async def prepared(bao: Bao, address: str | None = None) -> AsyncIterator[tuple[KekBackend, Wrap]]:
    key = bao.make_key()
    environ = bao.environ(key)
    backend = load(
        f"vault:transit/{key}",
        environ=environ | ({"VAULT_ADDR": address} if address else {}),
        development=False,
    )
    wrap = await backend.wrap("alice", KEY)
    await backend.refresh()
    assert backend.problem is None
    try:
        yield backend, wrap
    finally:
        await backend.close()


def assert_silent(
    backend: KekBackend, error: BaseException, wrap: Wrap, log: pytest.LogCaptureFixture
) -> None:
    """Nothing of plaintext, token or ciphertext in the exception or what the SDKs logged."""
    shown = [repr(error), "".join(traceback.format_exception(error)), log.text]
    encoded, token = base64.b64encode(KEY).decode(), held_token(backend)
    below: BaseException | None = error
    while below is not None:
        shown.append(repr(below))
        below = below.__context__ or below.__cause__
    for secret in (KEY.decode(), encoded, wrap.wrapped_mk, wrap.wrapped_mk[9:], token):
        assert all(secret not in text for text in shown)


async def fails(backend: KekBackend, wrap: Wrap) -> KekError:
    started = time.monotonic()
    with pytest.raises(KekError) as caught:
        await backend.unwrap("alice", wrap)
    assert time.monotonic() - started < DEADLINE
    return caught.value


async def back(backend: KekBackend, wrap: Wrap) -> None:
    """Service returns without a restart, within five seconds."""
    until = time.monotonic() + BACK_WITHIN
    while True:
        try:
            assert await backend.unwrap("alice", wrap) == KEY
        except Transient:
            assert time.monotonic() < until
            await asyncio.sleep(0.1)
        else:
            break
    await backend.refresh()
    assert backend.problem is None


async def test_killed_and_started_again(own_bao: Bao, sdk_log: pytest.LogCaptureFixture) -> None:
    async with prepared(own_bao) as (backend, wrap):
        own_bao.kill()
        try:
            error = await fails(backend, wrap)
            assert type(error) is Transient
            assert "the server can't be reached" in str(error)
            assert_silent(backend, error, wrap, sdk_log)
            with pytest.raises(Transient):
                await backend.refresh()
            assert "can't be reached" in (backend.problem or "")
        finally:
            own_bao.start()
        await back(backend, wrap)


async def test_frozen_and_thawed(
    own_bao: Bao, limits: Limits, sdk_log: pytest.LogCaptureFixture
) -> None:
    async with prepared(own_bao) as (backend, wrap):
        own_bao.freeze()
        try:
            with limits():
                errors = await asyncio.gather(*(fails(backend, wrap) for _ in range(40)))
            assert {type(error) for error in errors} == {Transient}
            for error in errors:
                assert_silent(backend, error, wrap, sdk_log)
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
            calls = [asyncio.ensure_future(backend.unwrap("alice", wrap)) for _ in range(60)]
            await asyncio.sleep(0.3)
            for call in calls[::2]:
                call.cancel()
            await asyncio.sleep(0.1)
        finally:
            own_bao.thaw()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results[::2]} == {asyncio.CancelledError}
        assert results[1::2] == [KEY] * 30


async def test_killed_under_load(own_bao: Bao, sdk_log: pytest.LogCaptureFixture) -> None:
    """Each of many concurrent calls ends in time, with the key or with a reason."""
    async with prepared(own_bao) as (backend, wrap):
        ended: list[object] = []

        async def call() -> None:
            while not any(isinstance(one, KekError) for one in ended):
                started = time.monotonic()
                try:
                    ended.append(await backend.unwrap("alice", wrap))
                except KekError as error:
                    ended.append(error)
                assert time.monotonic() - started < DEADLINE

        calls = [asyncio.ensure_future(call()) for _ in range(64)]
        await asyncio.sleep(0.2)
        own_bao.kill()
        try:
            await asyncio.gather(*calls)
        finally:
            own_bao.start()
        errors = [one for one in ended if isinstance(one, KekError)]
        assert [one for one in ended if one == KEY]
        assert {type(error) for error in errors} == {Transient}
        for error in errors:
            assert_silent(backend, error, wrap, sdk_log)
        await back(backend, wrap)


async def test_sealed_and_unsealed(own_bao: Bao) -> None:
    async with prepared(own_bao) as (backend, wrap):
        own_bao.ask("PUT", "sys/seal")
        try:
            error = await fails(backend, wrap)
            assert type(error) is Transient
            assert "can't answer now (VaultDown)" in str(error)
        finally:
            own_bao.ask("PUT", "sys/unseal", {"key": own_bao.unseal_key})
            own_bao._wait("sys/health")
        await back(backend, wrap)


async def test_quota(own_bao: Bao) -> None:
    async with prepared(own_bao) as (backend, wrap):
        # One call in ten seconds, and it is used up: thirty unwraps may share the next one.
        quota = {"path": "transit/", "rate": 1, "interval": "10s"}
        own_bao.ask("POST", "sys/quotas/rate-limit/small", quota)
        await backend.unwrap("alice", wrap)
        try:
            results = await asyncio.gather(
                *(backend.unwrap("alice", wrap) for _ in range(30)), return_exceptions=True
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


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
async def test_broken_network(
    bao: Bao, proxy: FaultyProxy, fault: Fault, limits: Limits, sdk_log: pytest.LogCaptureFixture
) -> None:
    async with prepared(bao, proxy.address) as (backend, wrap):
        proxy.fault = fault
        with limits():
            errors = await asyncio.gather(*(fails(backend, wrap) for _ in range(20)))
        assert {type(error) for error in errors} == {Transient}
        for error in errors:
            assert_silent(backend, error, wrap, sdk_log)
        with limits(), pytest.raises(Transient):
            await backend.refresh()
        assert backend.problem is not None
        proxy.fault = Fault.NONE
        await back(backend, wrap)


async def test_no_thread_is_left_hanging(bao: Bao, proxy: FaultyProxy, limits: Limits) -> None:
    """The fault stays, and yet every thread comes back: the answer is cut off, not waited for."""
    async with prepared(bao, proxy.address) as (backend, wrap):
        proxy.fault = Fault.DRIP
        with limits():
            await asyncio.gather(*(fails(backend, wrap) for _ in range(20)))
        threads = backend._calls._threads  # type: ignore[attr-defined]
        until = time.monotonic() + DEADLINE
        while threads._work_queue.qsize() or (
            threads._idle_semaphore._value < len(threads._threads)
        ):
            assert time.monotonic() < until
            await asyncio.sleep(0.01)


async def test_a_refusal_says_nothing_secret(bao: Bao, sdk_log: pytest.LogCaptureFixture) -> None:
    key = bao.make_key()
    environ = bao.environ(key)
    backend = load(f"vault:transit/{key}", environ=environ, development=False)
    wrap = await backend.wrap("alice", KEY)
    with pytest.raises(Tampered) as tampered:
        await backend.unwrap("bob", wrap)
    assert_silent(backend, tampered.value, wrap, sdk_log)
    bao.revoke(environ["VAULT_TOKEN"])
    with pytest.raises(Denied) as denied:
        await backend.unwrap("alice", wrap)
    assert_silent(backend, denied.value, wrap, sdk_log)
    await backend.close()


async def test_another_server_at_the_address(issuer_port: int, limits: Limits) -> None:
    environ = {
        "VAULT_ADDR": f"http://127.0.0.1:{issuer_port}",
        "VAULT_TOKEN": remember("s.token-for-another-server"),
    }
    backend = load("vault:transit/key", environ=environ, development=False)
    with limits(), pytest.raises(KekError):
        await backend.refresh()
    assert backend.problem is not None
    await backend.close()


@pytest.fixture
def issuer_port() -> Iterator[int]:
    """A port where something else than a Vault listens: nothing that speaks HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


async def test_certificate_that_is_not_trusted(bao: Bao, tmp_path: Path) -> None:
    environ = {
        "VAULT_ADDR": bao.address.replace("http", "https"),
        "VAULT_TOKEN": "x" * 20,
        "VAULT_CACERT": str(tmp_path / "missing.pem"),
    }
    backend = load("vault:transit/key", environ=environ, development=False)
    with pytest.raises(Misconfigured, match="VAULT_CACERT names a file that"):
        await backend.refresh()
    await backend.close()
