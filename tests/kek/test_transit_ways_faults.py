"""Faults on the ways to OpenBao: each ends in the documented error, and its cure is noticed."""

import asyncio
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kek_backends import breaker, calls
from kek_backends.errors import Denied, KekError, KeyMissing, Transient
from kek_backends.remote import CALL_SECONDS
from tests.bao_agent import Agent, bao_agent
from tests.bao_server import Bao, least_policy
from tests.bindings import of
from tests.eventually import eventually
from tests.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.kek.kit import KEY, failure, opens, short_limits, transit

pytestmark = [pytest.mark.usefixtures("known_backends"), pytest.mark.prove]

BACK_WITHIN = 5.0


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "OPEN_SECONDS", 0.2)
    monkeypatch.setattr(calls, "_PAUSE_SECONDS", 0.05)


@dataclass
class Way:
    """A way to a key, with what can be broken on it."""

    bao: Bao
    key: str
    environ: dict[str, str]
    proxy: FaultyProxy | None = None
    agent: Agent | None = None

    def spoil(self, fault: Fault) -> None:
        assert self.proxy is not None
        self.proxy.fault = fault


@pytest.fixture
def mtls(bao: Bao) -> Iterator[Way]:
    key = bao.make_key()
    with faulty_proxy(bao.tls_port) as proxy:
        environ = bao.environ(key) | bao.tls_environ(f"client-{key}")
        yield Way(
            bao, key, environ | {"VAULT_ADDR": f"https://127.0.0.1:{proxy.port}"}, proxy=proxy
        )


@pytest.fixture
def through_agent(bao: Bao, tmp_path: Path) -> Iterator[Way]:
    key = bao.make_key()
    with bao_agent(bao, tmp_path, bao.write_policy(key)) as agent:
        yield Way(bao, key, {"VAULT_ADDR": agent.address}, agent=agent)


def without_decrypt(way: Way) -> None:
    way.bao.write_policy(way.key, least_policy(way.key).replace("/decrypt/", "/none/"))


@contextmanager
def silent(agent: Agent) -> Iterator[None]:
    """Stand at the agent's socket: connections are taken, and nothing ever comes."""
    path = agent.folder / "agent.sock"
    agent.kill()
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(128)
        yield


@contextmanager
def dripping(agent: Agent) -> Iterator[None]:
    """Stand at the agent's socket: an answer comes a byte at a time."""
    with silent(agent), ExitStack() as stack:
        path, ended = str(agent.folder / "agent.sock"), threading.Event()
        Path(path).unlink()
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(128)
        listener.settimeout(0.05)

        def drip() -> None:
            taken: list[socket.socket] = []
            while not ended.is_set():
                try:
                    taken.append(listener.accept()[0])
                    taken[-1].sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                except OSError:
                    pass
                for one in taken:
                    try:
                        one.sendall(b"x")
                    except OSError:
                        continue
            for one in taken:
                one.close()

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextmanager
def frozen(agent: Agent) -> Iterator[None]:
    agent.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        agent.process.send_signal(signal.SIGCONT)


@contextmanager
def around(begin: Callable[[], object], cure: Callable[[], object]) -> Iterator[None]:
    begin()
    try:
        yield
    finally:
        cure()


def broken(way: Way, fault: str) -> ExitStack:
    """Return a block inside which the way is broken."""
    bao, key, stack = way.bao, way.key, ExitStack()
    if fault == "denied":
        stack.enter_context(around(lambda: without_decrypt(way), lambda: bao.write_policy(key)))
    elif fault == "disabled":
        path = f"transit/keys/{key}/soft-delete"
        stack.enter_context(
            around(lambda: bao.ask("DELETE", path), lambda: bao.ask("POST", f"{path}-restore", {}))
        )
    elif way.proxy is not None:
        which = {
            "down": Fault.REFUSE,
            "reset": Fault.RESET,
            "half-open": Fault.BLACK_HOLE,
            "slow": Fault.DRIP,
        }[fault]
        stack.enter_context(around(lambda: way.spoil(which), lambda: way.spoil(Fault.NONE)))
    else:
        agent = way.agent
        assert agent is not None
        if fault == "frozen":
            stack.enter_context(frozen(agent))
        else:
            stack.callback(agent.start)
            if fault == "down":
                agent.kill()
            else:
                stack.enter_context(silent(agent) if fault == "half-open" else dripping(agent))
    return stack


KINDS: dict[str, type[KekError]] = {"denied": Denied, "disabled": KeyMissing}
MTLS = ("down", "reset", "half-open", "slow", "denied", "disabled")
AGENT = ("down", "frozen", "half-open", "slow", "denied", "disabled")


@pytest.mark.parametrize("fault", MTLS)
async def test_mtls(mtls: Way, fault: str) -> None:
    await goes_through(mtls, fault)


@pytest.mark.parametrize("fault", AGENT)
async def test_agent(through_agent: Way, fault: str) -> None:
    await goes_through(through_agent, fault)


async def goes_through(way: Way, fault: str) -> None:
    """Break it, look, mend it, look; users of another KEK notice nothing."""
    kind = KINDS.get(fault, Transient)
    other = way.bao.make_key()
    async with (
        transit(way.bao, way.key, way.environ) as kek,
        transit(way.bao, other) as healthy,
    ):
        wrap, well = await kek.wrap(of("alice"), KEY), await healthy.wrap(of("alice"), KEY)
        await kek.refresh()
        assert kek.problem is None
        with await asyncio.to_thread(broken, way, fault):
            with short_limits():
                errors, unharmed = await asyncio.gather(
                    asyncio.gather(*(fails(kek.unwrap(of("alice"), wrap)) for _ in range(8))),
                    opens(healthy, well),
                )
            assert {type(error) for error in errors} == {kind}
            assert unharmed
            if fault != "denied":
                with short_limits(), pytest.raises(kind):
                    await kek.refresh()
            assert kek.problem is not None
        await eventually(lambda: is_back(kek.unwrap(of("alice"), wrap)), BACK_WITHIN)
        await kek.refresh()
        assert kek.problem is None


async def fails(call: Awaitable[bytes]) -> KekError:
    return await failure(call, CALL_SECONDS + 1.0)


async def is_back(call: Awaitable[bytes]) -> bool:
    try:
        return await call == KEY
    except KekError:
        return False
