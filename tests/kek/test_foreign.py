"""A backend of a third party that misbehaves: the daemon's loop goes on, and nothing is told."""

import asyncio
import importlib.metadata
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from custody.keks.watch import probe_keks
from kek_backends import foreign, loader
from kek_backends.env import EnvKek
from kek_backends.errors import KekError, Misconfigured, Tampered, Transient
from kek_backends.foreign import ForeignKek
from kek_backends.keyring import Keyring
from kek_backends.loader import ENTRY_POINT_GROUP, load
from kek_backends.own_loop import MOST_CALLS
from kek_backends.testing import CHECKS, Check, Subject
from tests.bindings import of
from tests.eventually import eventually
from tests.kek.kit import KEY, assert_silent, failure
from tests.kek.rude import SECRET, Polite
from tests.leaks import remember
from tests.proofs import some

ENDINGS = (SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, ValueError, OSError)


@pytest.fixture(autouse=True)
def polite(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    remember(SECRET)
    points = [*importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)]
    points.append(EntryPoint("rude", "tests.kek.rude:Polite", ENTRY_POINT_GROUP))
    monkeypatch.setattr(loader, "entry_points", lambda group: EntryPoints(points))
    monkeypatch.setattr(foreign, "CALL_SECONDS", 0.5)
    monkeypatch.setattr(Polite, "faults", {})
    monkeypatch.setattr(Polite, "closed", 0)
    yield
    for fault in Polite.faults.values():
        if isinstance(fault, threading.Event):
            fault.set()


def named(uri: str = "rude:key") -> ForeignKek:
    made = load(uri, environ={}, development=False)
    assert isinstance(made, ForeignKek)
    return made


@asynccontextmanager
async def rude() -> AsyncIterator[ForeignKek]:
    made = named()
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def turning() -> AsyncIterator[None]:
    """See that the loop of this test turns as long as the block runs."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    counting = asyncio.create_task(count())
    yield
    counting.cancel()
    assert turns > 5


NAMES = [check.__name__ for check in CHECKS]


@pytest.mark.parametrize("name", some(NAMES, "check_round_trip", "check_closing"))
async def test_at_arms_length_a_good_one_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "CALL_SECONDS", 20.0)

    async def opened() -> ForeignKek:
        return named()

    check: Check = dict(zip(NAMES, CHECKS, strict=True))[name]
    await check(Subject(opened))


@pytest.mark.parametrize("method", ["wrap", "unwrap", "refresh", "examine", "problem"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_whatever_it_raises_is_a_kek_error(
    ending: type[BaseException], method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with rude() as kek:
        wrap = await kek.wrap(of("alice"), KEY)
        Polite.faults[method] = ending
        calls = {
            "wrap": lambda: kek.wrap(of("alice"), KEY),
            "unwrap": lambda: kek.unwrap(of("alice"), wrap),
            "refresh": kek.refresh,
            "examine": lambda: kek.examine(active=True),
            "problem": kek.refresh,
        }
        error = await failure(calls[method]())
        assert isinstance(error, Transient)
        assert f"rude:key: {ending.__name__} while" in str(error)
        assert kek.problem is not None
        assert_silent([SECRET, KEY.hex()], error, log=caplog.text)
        Polite.faults.clear()
        assert await kek.unwrap(of("alice"), wrap) == KEY
        assert kek.problem is None


async def test_its_own_cancellation_is_not_the_callers() -> None:
    async with rude() as kek:
        Polite.faults["wrap"] = asyncio.CancelledError
        assert "CancelledError while wrapping" in str(await failure(kek.wrap(of("alice"), KEY)))
        Polite.faults.clear()
        wrap = await kek.wrap(of("alice"), KEY)
        Polite.faults["hang"] = 0.0
        call = asyncio.create_task(kek.unwrap(of("alice"), wrap))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_task_of_its_own_that_ends_the_loop_ends_nothing() -> None:
    async with rude() as kek:
        wrap = await kek.wrap(of("alice"), KEY)
        for ending in (SystemExit, KeyboardInterrupt, ValueError):
            Polite.faults["task"] = ending
            await kek.unwrap(of("alice"), wrap)
            Polite.faults.clear()
            assert await kek.unwrap(of("alice"), wrap) == KEY


@pytest.mark.prove
async def test_one_that_blocks_its_loop_blocks_nobody_else() -> None:
    gate = threading.Event()
    async with rude() as kek:
        wrap = await kek.wrap(of("alice"), KEY)
        Polite.faults["unwrap"] = gate
        async with turning():
            first = await failure(kek.unwrap(of("alice"), wrap))
            assert str(first) == "rude:key: unwrapping: no answer within 0.5 s"
            second = await failure(kek.wrap(of("bob"), KEY))
            assert str(second).endswith("no answer within 0.5 s: the backend blocks its event loop")
        assert kek.problem == str(second)
        # What can't be awaited has its last answer, or the one that does no harm.
        assert kek.holds(wrap.kek_id)
        assert not kek.holds("never-heard-of")
        async with turning():
            errors = await asyncio.gather(
                *(failure(kek.unwrap(of("alice"), wrap)) for _ in range(20))
            )
            assert {type(error) for error in errors} == {Transient}
        assert kek.is_not_asked
        assert "not asked" in str(await failure(kek.unwrap(of("alice"), wrap)))
        Polite.faults.clear()
        gate.set()
        await eventually(kek_is_back(kek))
        assert not kek.is_not_asked
        assert await kek.unwrap(of("alice"), wrap) == KEY


def kek_is_back(kek: ForeignKek):  # type: ignore[no-untyped-def]
    async def back() -> bool:
        try:
            await kek.refresh()
        except KekError:
            return False
        return kek.problem is None

    return back


@pytest.mark.prove
async def test_calls_that_hang_are_bounded() -> None:
    async with rude() as kek:
        wrap = await kek.wrap(of("alice"), KEY)
        Polite.faults["hang"] = 0.0
        calls = [asyncio.create_task(kek.unwrap(of("a"), wrap)) for _ in range(MOST_CALLS + 9)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        said = [str(error) for error in errors]
        assert sum("256 calls hang" in one for one in said) == 9
        Polite.faults.clear()
        await eventually(kek_is_back(kek))
        assert await kek.unwrap(of("alice"), wrap) == KEY


@pytest.mark.parametrize("fault", some([SystemExit, ValueError, 1.0], SystemExit))
async def test_words_that_cannot_be_awaited(fault: type[BaseException] | float) -> None:
    async with rude() as kek:
        known = kek.fingerprint(kek.kek_id or "")
        assert kek.holds("of-before")
        assert not kek.holds("another")
        await kek.refresh()
        Polite.faults |= {"holds": fault, "fingerprint": fault}
        assert kek.holds(kek.kek_id or "")
        assert kek.holds("of-before")
        assert not kek.holds("new")
        assert kek.fingerprint(kek.kek_id or "") == known
        error = None
        try:
            kek.fingerprint("of-before")
        except Transient as raised:
            error = raised
        assert error is not None
        assert_silent([SECRET], error)
        Polite.faults.clear()
        await eventually(kek_is_back(kek))
        assert await eventually(lambda: kek.holds("of-before"))


async def test_what_is_tampered_is_no_outage() -> None:
    async with rude() as kek:
        wrap = await kek.wrap(of("alice"), KEY)
        for _ in range(9):
            assert isinstance(await failure(kek.unwrap(of("bob"), wrap)), Tampered)
        assert kek.problem is None
        assert not kek.is_not_asked


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt, ValueError])
def test_one_that_fails_when_it_is_built(ending: type[BaseException]) -> None:
    Polite.faults["from_uri"] = ending
    with pytest.raises(Misconfigured) as caught:
        named()
    assert str(caught.value) == f"KEK rude:key: {ending.__name__} while loading"
    assert_silent([SECRET], caught.value)


@pytest.mark.prove
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise SystemExit('{SECRET}')", "SystemExit while loading"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt while loading"),
        ("raise RuntimeError('{SECRET}')", "RuntimeError while loading"),
        ("def", "SyntaxError while loading"),
        ("import signal\nsignal.signal(15, signal.SIG_IGN)", "ValueError while loading"),
        (
            "import os, time\nwhile not os.path.exists('{GATE}'): time.sleep(0.05)",
            "loading: no answer within",
        ),
        ("import no_such_module_here", "the module no_such_module_here can't be imported"),
    ],
)
def test_one_that_fails_when_it_is_imported_leaves_the_others_alone(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    module = f"acme_rude_kms_{abs(hash(says))}"
    text = text.replace("{SECRET}", SECRET).replace("{GATE}", str(gate))
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(foreign, "_LOAD_SECONDS", 1.0)
    ours = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    points = [*ours, EntryPoint("acme", f"{module}:Kms", ENTRY_POINT_GROUP)]
    # And one that takes the name of one of ours.
    points.insert(0, EntryPoint("env", f"{module}:Kms", ENTRY_POINT_GROUP))
    monkeypatch.setattr(loader, "entry_points", lambda group: EntryPoints(points))
    with pytest.raises(Misconfigured) as caught:
        named("acme:key")
    assert says in str(caught.value)
    assert_silent([SECRET], caught.value)
    gate.touch()
    assert type(load("env:K", environ={}, development=True)) is EnvKek


def test_two_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("acme", f"{name}:Kms", ENTRY_POINT_GROUP) for name in ("one", "two")]
    monkeypatch.setattr(loader, "entry_points", lambda group: EntryPoints(points))
    with pytest.raises(Misconfigured, match="one:Kms and two:Kms share the name 'acme'"):
        named("acme:key")


@pytest.mark.prove
async def test_closing_one_that_will_not_close() -> None:
    for ending in (SystemExit, ValueError, threading.Event()):
        Polite.faults["close"] = ending
        kek = named()
        async with turning():
            await kek.close()
            await asyncio.sleep(0.2)
        await kek.close()
        assert "closed" in str(await failure(kek.wrap(of("alice"), KEY)))
        if isinstance(ending, threading.Event):
            ending.set()
    assert Polite.closed == 3


async def test_threads_end_with_their_backends() -> None:
    before = threading.active_count()
    for _ in range(5):
        async with rude() as kek:
            await kek.refresh()
    await eventually(lambda: threading.active_count() <= before)


@pytest.mark.prove
async def test_the_daemon_boots_beside_one_that_hangs() -> None:
    Polite.faults["refresh"] = threading.Event()
    good = load("env:K", environ={}, development=True)
    kek = named("rude:key?id=rude-1")
    async with turning():
        await probe_keks(Keyring(good, [kek]))
        wrap = await good.wrap(of("alice"), KEY)
        assert await good.unwrap(of("alice"), wrap) == KEY
        assert "no answer within" in str(kek.problem)
        await kek.close()


async def test_its_calls_are_counted_in_our_loop() -> None:
    async with rude() as kek:
        seen: list[str] = []
        here = threading.current_thread()

        def called(outcome: str, seconds: float) -> None:
            assert threading.current_thread() is here
            seen.append(outcome)

        kek.observe(called)
        kek.trust(frozenset({"of-before"}))
        await kek.refresh()
        assert seen == []
