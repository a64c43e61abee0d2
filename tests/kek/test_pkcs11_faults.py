"""A token that is taken out, a module that hangs or crashes, a wrong PIN: with their cures."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator
from pathlib import Path

import pytest

from kek_backends.errors import KekError, KeyMissing, Misconfigured, Transient
from kek_backends.loader import load
from kek_backends.pkcs11 import opened as opened_token
from kek_backends.pkcs11.errors import WrongPin
from kek_backends.pkcs11.kek import Pkcs11Kek
from tests.bindings import of
from tests.eventually import eventually
from tests.kek.kit import KEY, assert_silent, failure, no_thread_waits, opens
from tests.softhsm import OddModule, SoftToken, odd_module, soft_hsm

pytestmark = pytest.mark.usefixtures("quick", "known_backends")


@pytest.fixture
def token(tmp_path: Path) -> SoftToken:
    folder = tmp_path / "hsm"
    folder.mkdir()
    made = soft_hsm(folder).make_token()
    made.make_key("custody")
    return made


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[OddModule]:
    with odd_module(tmp_path) as made:
        yield made


@pytest.fixture
def kek(token: SoftToken, odd: OddModule) -> Iterator[Pkcs11Kek]:
    environ = token.hsm.environ | odd.environ
    made = load(token.uri(module_path=odd.path), environ=environ, development=False)
    assert isinstance(made, Pkcs11Kek)
    yield made
    made._token.close()
    made._calls.close()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def process_of(kek: Pkcs11Kek) -> int:
    assert kek._token._process is not None
    return kek._token._process._process.pid


@pytest.mark.prove
async def test_a_token_taken_out_and_put_back(kek: Pkcs11Kek, token: SoftToken) -> None:
    await kek.prove()
    wrap = await kek.wrap(of("alice"), KEY)
    away = token.hsm.tokens.with_name("away")
    token.hsm.tokens.rename(away)
    assert isinstance(await failure(kek.unwrap(of("alice"), wrap)), Transient)
    with pytest.raises(KekError):
        await kek.refresh()
    assert kek.problem is not None
    away.rename(token.hsm.tokens)
    await eventually(lambda: opens(kek, wrap), 5.0)
    await kek.refresh()
    assert kek.problem is None


@pytest.mark.prove
async def test_a_key_that_is_deleted(kek: Pkcs11Kek, token: SoftToken) -> None:
    wrap = await kek.wrap(of("alice"), KEY)
    token.delete_key()
    with pytest.raises(KekError):
        await kek.refresh()

    async def named() -> bool:
        return isinstance(await failure(kek.unwrap(of("alice"), wrap)), KeyMissing)

    await eventually(named)
    assert "no such key" in str(kek.problem)


@pytest.mark.prove
async def test_a_module_that_hangs_is_ended_and_harms_nobody_else(
    kek: Pkcs11Kek, odd: OddModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened_token, "ATTEMPT_SECONDS", 0.5)
    wrap = await kek.wrap(of("alice"), KEY)
    before = process_of(kek)
    odd.do("hang")
    calls = [failure(kek.unwrap(of("alice"), wrap), 20.0) for _ in range(20)]
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    errors = await asyncio.gather(*calls)
    counting.cancel()
    assert {type(error) for error in errors} == {Transient}
    assert turns > 100
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)
    odd.do("well")
    await eventually(lambda: opens(kek, wrap), 5.0)
    await eventually(lambda: no_thread_waits(kek))


@pytest.mark.prove
async def test_a_module_that_hangs_at_login_is_given_up(
    kek: Pkcs11Kek, odd: OddModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened_token, "OPEN_SECONDS", 1.0)
    odd.do("hang-at-login")
    error = await failure(kek.refresh(), 20.0)
    assert "open: no answer of the module in 1 s" in str(error)
    odd.do("well")

    async def back() -> bool:
        try:
            await kek.refresh()
        except Transient:
            return False
        return True

    await eventually(back, 5.0)


@pytest.mark.prove
async def test_a_module_that_crashes_takes_its_process_alone(
    kek: Pkcs11Kek, odd: OddModule
) -> None:
    wrap = await kek.wrap(of("alice"), KEY)
    descriptors = open_descriptors()
    odd.do("crash")
    for _ in range(3):
        error = await failure(kek.unwrap(of("alice"), wrap))
        assert isinstance(error, Transient)
        assert_silent([KEY.hex(), wrap.wrapped_mk], error)
    odd.do("well")
    await eventually(lambda: opens(kek, wrap), 5.0)
    await eventually(lambda: open_descriptors() <= descriptors)


@pytest.mark.prove
async def test_an_error_of_the_device_is_no_tampered_row(kek: Pkcs11Kek, odd: OddModule) -> None:
    wrap = await kek.wrap(of("alice"), KEY)
    odd.do("device-error")
    error = await failure(kek.unwrap(of("alice"), wrap))
    assert isinstance(error, Transient)
    assert "DeviceError" in str(error)
    odd.do("well")
    await eventually(lambda: opens(kek, wrap), 5.0)


@pytest.mark.prove
async def test_a_process_that_is_killed_is_replaced(kek: Pkcs11Kek) -> None:
    wrap = await kek.wrap(of("alice"), KEY)
    before = process_of(kek)
    os.kill(before, signal.SIGKILL)
    await eventually(lambda: opens(kek, wrap), 5.0)
    assert process_of(kek) != before


async def test_a_wrong_pin_is_tried_once(
    kek: Pkcs11Kek, token: SoftToken, odd: OddModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened_token, "_AGAIN_SECONDS", 0.0)
    token.write_pin("wrong-and-secret-pin")
    for _ in range(4):
        error = await failure(kek.refresh())
        assert isinstance(error, WrongPin)
        assert str(error).startswith(f"KEK {kek.uri.text}: open: the token refuses the PIN; ")
        assert_silent(["wrong-and-secret-pin"], error)
    assert odd.logins == 1
    token.write_pin(token.pin)
    await kek.refresh()
    assert odd.logins == 2
    (warning,) = (one for one in await kek.examine(active=True) if one.verdict == "warning")
    assert "wrong PIN" in warning.message


@pytest.mark.prove
@pytest.mark.parametrize(
    ("mode", "says"),
    [("final-try", "one more wrong PIN would lock"), ("locked", "the PIN of the token is locked")],
)
async def test_a_token_is_never_locked_by_us(
    kek: Pkcs11Kek, odd: OddModule, mode: str, says: str
) -> None:
    odd.do(mode)
    error = await failure(kek.refresh())
    assert isinstance(error, Misconfigured)
    assert says in str(error)
    assert odd.logins == 0


@pytest.mark.prove
async def test_the_pin_may_change_while_it_runs(kek: Pkcs11Kek, token: SoftToken) -> None:
    wrap = await kek.wrap(of("alice"), KEY)
    token.tool("--change-pin", "--new-pin", "another-pin")
    assert await opens(kek, wrap)
    token.write_pin("another-pin")
    os.kill(process_of(kek), signal.SIGKILL)
    await eventually(lambda: opens(kek, wrap), 5.0)


@pytest.mark.prove
async def test_the_process_ends_with_the_daemon(kek: Pkcs11Kek) -> None:
    await kek.refresh()
    process = kek._token._process
    assert process is not None
    # What closing does not do, the end of the pipe does.
    process._pipe_in.close()
    assert await asyncio.to_thread(process._process.wait, 20) == 0


@pytest.mark.prove
async def test_signals_of_the_group_are_for_the_daemon(kek: Pkcs11Kek) -> None:
    wrap = await kek.wrap(of("alice"), KEY)
    before = process_of(kek)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(before, number)
    assert await opens(kek, wrap)
    assert process_of(kek) == before
    limits = await asyncio.to_thread(Path(f"/proc/{before}/limits").read_text, "utf-8")
    assert "Max core file size        0                    0" in limits
    await kek.close()
    await kek.close()
    assert "closed" in str(await failure(kek.unwrap(of("alice"), wrap)))


@pytest.mark.prove
async def test_a_process_that_cannot_be_told_ends_by_itself(tmp_path: Path) -> None:
    """Code that never gives the interpreter back does not see the end of the pipe."""
    code = (
        "import os, sys\n"
        "from kek_backends.pkcs11 import child\n"
        "child._HUNG_SECONDS = 1.0\n"
        "def spin(*_):\n"
        "    import ctypes\n"
        "    ctypes.PyDLL(None).pause()\n"
        "child.frames.read = spin\n"
        "child.main()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
    )
    assert process.stdin is not None
    process.stdin.write(b"x")
    assert await asyncio.wait_for(process.wait(), 30.0) == 1
