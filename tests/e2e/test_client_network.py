"""The Python client where the network, the token or another device is in the way."""

import asyncio
import os
import ssl
import time
from asyncio import to_thread
from collections.abc import AsyncIterator, Iterator
from itertools import chain, repeat
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from custody.client import (
    AsyncVault,
    BadAnswer,
    HttpTransport,
    Keys,
    NotTrusted,
    SignInAgain,
    StaleGeneration,
    StepUpRequired,
    Unreachable,
    Vault,
    exchange,
    make_code,
)
from custody.client.exchange import Request, Response
from custody.http.routes import BASE_PATH
from tests.certificates import make_certificate
from tests.e2e.test_client_life import Remembered, crash, told
from tests.eventually import eventually
from tests.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.leaks import remember
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow at once on each other."""
    monkeypatch.setattr(exchange, "FIRST_PAUSE", 0.01)


def origin(daemon: Daemon) -> str:
    return daemon.base.removesuffix(BASE_PATH)


@pytest.fixture
async def daemon(database: Database, issuer: Issuer, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon in this process: one beside it takes longer to start."""
    async with daemon_here(database, issuer, tmp_path, RESET="on") as running:
        yield running


@pytest.fixture
def proxy(daemon: Daemon) -> Iterator[FaultyProxy]:
    """A network in front of the daemon."""
    port = urlsplit(origin(daemon)).port
    assert port is not None
    with faulty_proxy(port) as running:
        yield running


@pytest.mark.prove
async def test_the_whole_life_over_tls(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path / "own")
    other, _ = make_certificate(tmp_path / "other")
    async with daemon_here(
        database, issuer, tmp_path, TLS_CERT=str(cert), TLS_KEY=str(key), RESET="on"
    ) as daemon:
        claims = {"auth_time": time.time()}

        def token() -> str:
            return remember(issuer.token("alice", **claims))

        trust = ssl.create_default_context(cafile=cert)
        assert origin(daemon).startswith("https:")
        here = AsyncVault(HttpTransport(origin(daemon), tls=trust), token, Remembered())
        first = told(await here.unlock())
        seen: list[Keys] = []
        keys = told(await here.rotate(seen.append))
        assert [one.previous_master_key for one in seen] == [first.master_key]
        code = remember(make_code())
        await here.enable_zero_knowledge(keys, code)
        assert await here.unlock(code) == keys
        status = await here.status()
        assert (status.vault_exists, status.has_recovery_wrap, status.zero_knowledge) == (True,) * 3
        assert status.recovery_set_at is not None
        # The code is lost.
        fresh = told(await here.reset())
        assert fresh.generation == keys.generation + 1
        assert await here.unlock() == fresh
        newest = await here.audit(limit=2)
        assert [event.action for event in newest.events] == ["fetch", "reset"]
        older = await here.audit(limit=200, before=newest.next)
        assert [event.action for event in older.events][-2:] == ["init", "failed_fetch"]
        assert older.next is None
        # Whoever trusts another authority, or the system's alone, sends nothing.
        before = await database.contents()
        for context in (ssl.create_default_context(cafile=other), None):
            with pytest.raises(NotTrusted):
                await AsyncVault(
                    HttpTransport(origin(daemon), tls=context), token, Remembered()
                ).unlock()
        assert await database.contents() == before


@pytest.mark.parametrize("weak", ["no verification", "any host"])
def test_a_context_that_does_not_verify_is_refused(weak: str) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    if weak == "no verification":
        context.verify_mode = ssl.CERT_NONE
    with pytest.raises(ValueError, match="does not verify"):
        HttpTransport("https://vault.example", tls=context)


class Losing(HttpTransport):
    """Loses the answer of the next request of a route, after the daemon acted."""

    proxy: FaultyProxy
    loses: tuple[str, str] | None = None

    def send(self, request: Request) -> Response:
        if (request.method, request.path) != self.loses:
            return super().send(request)
        self.loses, self.proxy.fault = None, Fault.SWALLOW
        try:
            return super().send(request)
        finally:
            self.proxy.fault = Fault.NONE


@pytest.mark.prove
async def test_an_answer_that_is_lost_costs_nothing(daemon: Daemon, proxy: FaultyProxy) -> None:
    transport = Losing(proxy.address)
    transport.proxy = proxy
    claims = {"auth_time": time.time()}

    def token() -> str:
        return remember(daemon.issuer.token("alice", **claims))

    async def said() -> list[tuple[str, str | None, int]]:
        rows = await daemon.database.audit("alice")
        fresh, seen[:] = rows[len(seen) :], rows
        return fresh

    seen: list[tuple[str, str | None, int]] = []
    asked: list[Keys] = []
    vault = AsyncVault(transport, token, Remembered())
    transport.loses = ("POST", "/init")
    first = told(await vault.unlock())
    assert [row[1] for row in await said()] == ["not-initialised", "created", "already-exists"]

    transport.loses = ("POST", "/rotation")
    keys = told(await vault.rotate(asked.append))
    # Not a second rotation: the pair of the one that was begun.
    assert keys.generation == first.generation + 1
    assert [one.previous_master_key for one in asked] == [first.master_key]
    assert await said() == [
        ("fetch", None, 200),
        ("rotation_begin", None, 200),
        ("rotation_begin", "stale-generation", 412),
        ("fetch", None, 200),
        ("rotation_end", None, 200),
    ]

    transport.loses = ("DELETE", "/rotation")
    keys = told(await vault.rotate(asked.append))
    ends = [("rotation_end", None, 200), ("rotation_end", "none-pending", 200)]
    assert (await said())[-2:] == ends

    code = remember(make_code())
    transport.loses = ("POST", "/recovery-wrap")
    await vault.set_recovery_code(keys, code)
    assert await said() == [("recovery_set", None, 200)] * 2
    transport.loses = ("POST", "/zero-knowledge")
    await vault.enable_zero_knowledge(keys, code)
    transport.loses = ("POST", "/zero-knowledge")
    await vault.disable_zero_knowledge(keys)
    assert await vault.unlock() == keys

    # To begin again is never done twice: whether it was done, the next unlock shows.
    transport.loses = ("POST", "/reset")
    with pytest.raises(Unreachable):
        await vault.reset()
    after = told(await vault.unlock())
    assert after.generation == keys.generation + 1
    # Nor is it done to a vault that has moved on since this device saw it.
    other = AsyncVault(HttpTransport(origin(daemon)), token, Remembered())
    await other.rotate(lambda _keys: None)
    with pytest.raises(StaleGeneration):
        await vault.reset()


FAULTS = {
    Fault.REFUSE: Unreachable,
    Fault.RESET: Unreachable,
    Fault.BLACK_HOLE: Unreachable,
    Fault.DRIP: Unreachable,
    Fault.SWALLOW: Unreachable,
    Fault.GARBAGE: BadAnswer,
    Fault.ENDLESS: BadAnswer,
}


@pytest.mark.prove
async def test_a_network_that_fails_in_mid_rotation(
    daemon: Daemon, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call ends in its time and with its error; the next rotate goes on."""
    monkeypatch.setattr(exchange, "TRIES", 2)

    def token() -> str:
        return remember(daemon.issuer.token("bob"))

    vault = AsyncVault(HttpTransport(proxy.address, timeout=0.2), token, Remembered())
    away = HttpTransport(origin(daemon))
    witness = AsyncVault(away, token, Remembered())
    first = told(await witness.unlock())
    for number, (fault, error) in enumerate(FAULTS.items(), 1):

        async def cut(_keys: Keys, fault: Fault = fault) -> None:
            await to_thread(setattr, proxy, "fault", fault)

        with pytest.raises(error):
            await vault.rotate(cut)
        with pytest.raises(error):
            await vault.status() if error is Unreachable else await vault.unlock()
        await to_thread(setattr, proxy, "fault", Fault.NONE)
        keys = told(await witness.rotate(lambda _keys: None))
        # Where the answer alone was lost, the rotation was ended, and this is another one.
        assert keys.generation >= first.generation + number


@pytest.mark.prove
async def test_a_network_that_is_slow_is_waited_for(daemon: Daemon, proxy: FaultyProxy) -> None:
    def token() -> str:
        return remember(daemon.issuer.token("cleo"))

    vault = AsyncVault(HttpTransport(proxy.address), token, Remembered())
    first = told(await vault.unlock())
    clears: list[asyncio.Task[None]] = []

    async def clear() -> None:
        await asyncio.sleep(0.3)
        await to_thread(setattr, proxy, "fault", Fault.NONE)

    async def hold(_keys: Keys) -> None:
        await to_thread(setattr, proxy, "fault", Fault.BLACK_HOLE)
        clears.append(asyncio.create_task(clear()))

    keys = told(await vault.rotate(hold))
    await clears[0]
    assert keys.generation == first.generation + 1
    audit = await daemon.database.audit("cleo")
    assert [row[0] for row in audit].count("rotation_end") == 1


@pytest.mark.prove
async def test_a_token_that_expires_in_mid_rotation(daemon: Daemon) -> None:
    """Another one is asked for once, and the rotation ends."""
    transport = HttpTransport(origin(daemon))
    now = int(time.time())
    # The leeway is 30 seconds: it is good for four more.
    short = remember(daemon.issuer.token("erin", iat=now - 600, exp=now - 26))
    fresh = remember(daemon.issuer.token("erin"))
    given: Iterator[str] = repeat(short)
    asked: list[str] = []

    def token() -> str:
        asked.append(next(given))
        return asked[-1]

    async def is_refused() -> bool:
        try:
            await AsyncVault(transport, lambda: short, Remembered()).status()
        except SignInAgain:
            return True
        return False

    async def expire(_keys: Keys) -> None:
        nonlocal given
        await eventually(is_refused, 20)
        # The application does not know yet, and gives it once more.
        asked.clear()
        given = chain([short], repeat(fresh))

    vault = AsyncVault(transport, token, Remembered())
    first = told(await vault.unlock())
    keys = told(await vault.rotate(expire))
    assert asked == [short, fresh]
    assert keys.generation == first.generation + 1
    assert await vault.unlock() == keys


@pytest.mark.prove
async def test_a_login_made_just_now_is_asked_for(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """Nobody is signed out by it, no other token is asked for, and nothing was done."""
    login: list[dict[str, object]] = [{}]
    asked: list[str] = []

    def token() -> str:
        asked.append(remember(issuer.token("fred", **login[-1])))
        return asked[-1]

    async with daemon_here(database, issuer, tmp_path, STEP_UP_MAX_AGE="60", RESET="on") as daemon:
        vault = Vault(HttpTransport(origin(daemon)), token, Remembered())
        first = told(await to_thread(vault.unlock))
        before = await database.vault("fred")
        for act in (lambda: vault.rotate(crash), vault.reset):
            asked.clear()
            with pytest.raises(StepUpRequired):
                await to_thread(act)
            assert len(asked) <= 2
        assert await database.vault("fred") == before
        login.append({"auth_time": time.time()})
        keys = told(await to_thread(vault.rotate, lambda _keys: None))
        assert keys.generation == first.generation + 1
        assert told(await to_thread(vault.reset)).generation == keys.generation + 1


class Store:
    """Records, each with the generation of its key; a write says what it read."""

    def __init__(self) -> None:
        self.records: dict[str, tuple[int, bytes]] = {}

    def put(self, name: str, read: tuple[int, bytes] | None, fresh: tuple[int, bytes]) -> bool:
        if self.records.get(name) != read:
            return False
        self.records[name] = fresh
        return True


def seal(key: bytes, name: str) -> bytes:
    nonce = os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, f"text of {name}".encode(), name.encode())


def text(key: bytes, name: str, sealed: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:12], sealed[12:], name.encode())


@pytest.mark.prove
async def test_devices_that_rotate_at_once_lose_nothing(daemon: Daemon) -> None:
    store, chance = Store(), Random(19)  # noqa: S311 - who is first is no secret

    def token() -> str:
        return remember(daemon.issuer.token("gina"))

    def device() -> AsyncVault:
        return AsyncVault(HttpTransport(origin(daemon)), token, Remembered())

    first = told(await device().unlock())
    for number in range(20):
        name = f"record {number}"
        store.put(name, None, (first.generation, seal(first.master_key, name)))
    stale = 0

    async def reencrypt(keys: Keys) -> None:
        assert keys.previous_master_key is not None
        for name in store.records:
            read = store.records[name]
            await asyncio.sleep(chance.random() * 0.002)
            if read[0] >= keys.generation:
                continue
            assert text(keys.previous_master_key, name, read[1]) == f"text of {name}".encode()
            # What another device has brought over meanwhile stays as that has it.
            store.put(name, read, (keys.generation, seal(keys.master_key, name)))

    async def take_part(vault: AsyncVault) -> None:
        nonlocal stale
        for _ in range(3):
            try:
                await vault.rotate(reencrypt)
            except StaleGeneration:
                stale += 1

    await asyncio.gather(*(take_part(device()) for _ in range(4)))
    last = told(await device().rotate(reencrypt))
    assert last.generation > first.generation + 1
    for name, (generation, sealed) in store.records.items():
        assert generation == last.generation
        assert text(last.master_key, name, sealed) == f"text of {name}".encode()
