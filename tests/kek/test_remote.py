"""What every remote KMS has from its base class: bounds, retries, a breaker, a proven binding."""

import asyncio
import threading
import time
from collections import Counter

import pytest

from kek_backends import breaker, remote
from kek_backends import calls as kms_calls
from kek_backends.breaker import FAILURES
from kek_backends.errors import Denied, Tampered, Throttled, Transient
from kek_backends.remote import CONCURRENT_CALLS
from tests.bindings import of
from tests.eventually import eventually
from tests.kek.fakes import FakeRemote, SdkBusy, SdkError, raising, tampered
from tests.kek.kit import KEY

pytestmark = pytest.mark.usefixtures("quick")
BUSY = raising(SdkBusy("the-plaintext-of-another-user"))


# Bounds


async def test_never_more_calls_than_allowed_at_once(
    kms: FakeRemote, gate: threading.Event
) -> None:
    kms.always = gate.wait
    calls = [asyncio.ensure_future(kms.wrap(of(f"user-{n}"), KEY)) for n in range(50)]
    await eventually(lambda: kms.running == CONCURRENT_CALLS)
    await asyncio.sleep(0.1)
    assert kms.running == CONCURRENT_CALLS == 16
    gate.set()
    wraps = await asyncio.gather(*calls)
    assert kms.most_running == CONCURRENT_CALLS
    assert await kms.unwrap(of("user-49"), wraps[49]) == KEY


async def test_a_caller_that_gave_up_keeps_its_turn_until_its_thread_ends(
    kms: FakeRemote, gate: threading.Event
) -> None:
    """Else a KMS that hangs would get new threads for ever."""
    kms.always = gate.wait
    given_up = [asyncio.ensure_future(kms.wrap(of("alice"), KEY)) for _ in range(CONCURRENT_CALLS)]
    await eventually(lambda: kms.running == CONCURRENT_CALLS)
    for call in given_up:
        call.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    kms.always = lambda: None
    waits = asyncio.ensure_future(kms.wrap(of("bob"), KEY))
    await asyncio.sleep(0.2)
    assert not waits.done()
    assert len(kms.calls) == CONCURRENT_CALLS
    gate.set()
    assert (await waits).kek_id == "fake:v1"
    many = await asyncio.gather(*(kms.wrap(of("carol"), KEY) for _ in range(40)))
    assert len(many) == 40


@pytest.mark.prove
async def test_a_caller_that_gives_up_while_it_waits_takes_no_turn(
    kms: FakeRemote, gate: threading.Event
) -> None:
    kms.always = gate.wait
    calls = [asyncio.ensure_future(kms.wrap(of("alice"), KEY)) for _ in range(60)]
    await eventually(lambda: kms.running == CONCURRENT_CALLS)
    for call in calls:
        call.cancel()
    gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert len(kms.calls) == CONCURRENT_CALLS
    await asyncio.gather(*(kms.wrap(of("bob"), KEY) for _ in range(40)))


async def test_refreshes_go_through_while_users_fill_the_threads(
    kms: FakeRemote, gate: threading.Event
) -> None:
    kms.faults["encrypt"] = [gate.wait] * CONCURRENT_CALLS
    calls = [asyncio.ensure_future(kms.wrap(of("alice"), KEY)) for _ in range(40)]
    await eventually(lambda: kms.running == CONCURRENT_CALLS)
    await asyncio.wait_for(kms.refresh(), 1)
    gate.set()
    await asyncio.gather(*calls)


async def test_the_event_loop_and_other_threads_are_free_while_a_kms_hangs(
    kms: FakeRemote, gate: threading.Event
) -> None:
    """The default executor also resolves names: it must not be the one that hangs."""
    kms.always = gate.wait
    calls = [asyncio.ensure_future(kms.wrap(of("alice"), KEY)) for _ in range(50)]
    await eventually(lambda: kms.running == CONCURRENT_CALLS)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 1) == 1
    gate.set()
    await asyncio.gather(*calls)


# Deadline and retries


@pytest.mark.parametrize("use", ["wrap", "unwrap", "refresh"])
async def test_a_kms_that_hangs_costs_no_more_than_the_deadline(
    kms: FakeRemote, gate: threading.Event, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    monkeypatch.setattr(kms_calls, "CALL_SECONDS", 0.2)
    wrap = await kms.some_wrap()
    kms.always = gate.wait
    calls = {
        "wrap": lambda: kms.wrap(of("alice"), KEY),
        "unwrap": lambda: kms.unwrap(of("alice"), wrap),
        "refresh": kms.refresh,
    }
    began = time.monotonic()
    with pytest.raises(Transient, match=r"fake:remote: no answer within 0.2 s") as caught:
        await calls[use]()
    assert 0.15 < time.monotonic() - began < 3
    assert kms.problem == str(caught.value)
    gate.set()


def test_the_deadline_is_shorter_than_what_a_request_waits_for_a_kek() -> None:
    assert remote.ATTEMPT_SECONDS < remote.CALL_SECONDS < 5


@pytest.mark.parametrize("failures", [1, 2])
async def test_what_may_pass_is_tried_again(kms: FakeRemote, failures: int) -> None:
    kms.faults["encrypt"] = [BUSY] * failures
    await kms.wrap(of("alice"), KEY)
    assert kms.calls == ["encrypt"] * (failures + 1)
    assert kms.problem is None


async def test_three_times_in_all(kms: FakeRemote) -> None:
    kms.faults["encrypt"] = [BUSY] * 9
    with pytest.raises(Transient, match="fake:remote: SdkBusy"):
        await kms.wrap(of("alice"), KEY)
    assert kms.calls == ["encrypt"] * 3


async def test_throttling_is_tried_again(kms: FakeRemote) -> None:
    kms.faults["encrypt"] = [raising(Throttled("slower"))]
    await kms.wrap(of("alice"), KEY)
    assert kms.calls == ["encrypt"] * 2


@pytest.mark.parametrize("fault", [raising(SdkError("no")), raising(Denied("no")), tampered])
async def test_what_will_not_pass_is_not_tried_again(kms: FakeRemote, fault: remote.T) -> None:
    wrap = await kms.some_wrap()
    kms.faults["decrypt"] = [fault]  # type: ignore[list-item]
    with pytest.raises((Denied, Tampered)):
        await kms.unwrap(of("alice"), wrap)
    assert kms.calls == ["decrypt"]


# The breaker


async def fail(kms: FakeRemote, times: int = FAILURES) -> None:
    kms.always = BUSY
    for _ in range(times):
        with pytest.raises(Transient, match="SdkBusy"):
            await kms.wrap(of("alice"), KEY)
    kms.calls.clear()


async def test_a_kms_that_is_down_is_not_asked_by_every_request(kms: FakeRemote) -> None:
    await fail(kms)
    for _ in range(3):
        with pytest.raises(Transient) as caught:
            await kms.wrap(of("alice"), KEY)
    assert kms.calls == []
    assert str(caught.value) == (
        "fake:remote: not asked: its last calls failed; it is tried every second "
        "(fake:remote: SdkBusy)"
    )


async def test_what_a_refused_call_says_does_not_grow(kms: FakeRemote) -> None:
    """It would hold what the one before said, and that the one before it."""
    wrap = await kms.some_wrap()
    await fail(kms)
    for _ in range(50):
        with pytest.raises(Transient):
            await kms.wrap(of("alice"), KEY)
        with pytest.raises(Transient) as caught:
            await kms.unwrap(of("alice"), wrap)
    assert len(str(caught.value)) < 200
    assert len(kms.problem or "") < 200


async def test_half_open_for_one_call(kms: FakeRemote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "OPEN_SECONDS", 0.3)
    await fail(kms)
    await asyncio.sleep(0.4)
    results = await asyncio.gather(
        *(kms.wrap(of("alice"), KEY) for _ in range(20)), return_exceptions=True
    )
    said = Counter("not asked" in str(result) for result in results)
    assert said == {True: 19, False: 1}
    assert kms.calls == ["encrypt"] * 3


async def test_closes_when_the_one_call_succeeds(
    kms: FakeRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "OPEN_SECONDS", 0.1)
    await fail(kms)
    kms.always = lambda: None
    await asyncio.sleep(0.15)
    await asyncio.gather(kms.wrap(of("alice"), KEY), return_exceptions=True)
    await asyncio.gather(*(kms.wrap(of("alice"), KEY) for _ in range(20)))
    assert kms.problem is None


@pytest.mark.parametrize("fault", [raising(Denied("no")), tampered])
async def test_a_kms_that_answers_is_not_down(kms: FakeRemote, fault: remote.T) -> None:
    wrap = await kms.some_wrap()
    kms.faults["decrypt"] = [fault] * 20  # type: ignore[list-item]
    for _ in range(20):
        with pytest.raises((Denied, Tampered)):
            await kms.unwrap(of("alice"), wrap)
    assert await kms.unwrap(of("alice"), wrap) == KEY


async def test_a_refresh_is_not_held_up_and_closes_it(kms: FakeRemote) -> None:
    await fail(kms)
    kms.always = lambda: None
    assert kms.problem is not None
    await kms.refresh()
    assert kms.problem is None
    assert (await kms.wrap(of("alice"), KEY)).kek_id == "fake:v1"


# The end


async def test_closed(kms: FakeRemote) -> None:
    wrap = await kms.some_wrap()
    await kms.close()
    await kms.close()
    for _ in range(CONCURRENT_CALLS + 2):
        began = time.monotonic()
        kms._calls.close_breaker()
        with pytest.raises(Transient, match="fake:remote: closed"):
            await kms.unwrap(of("alice"), wrap)
        assert time.monotonic() - began < 3
    with pytest.raises(Transient, match="fake:remote: closed"):
        await kms.refresh()
    assert kms.calls == []


async def test_closing_cancels_nobody(kms: FakeRemote, gate: threading.Event) -> None:
    """A cancellation that nobody asked for would end the task that refreshes, unnoticed."""
    kms.always = gate.wait
    calls = [asyncio.ensure_future(kms.wrap(of("alice"), KEY)) for _ in range(CONCURRENT_CALLS)]
    refreshes = [asyncio.ensure_future(kms.refresh()) for _ in range(4)]
    await eventually(lambda: kms.running == CONCURRENT_CALLS + 2)
    await kms.close()
    gate.set()
    results = await asyncio.gather(*calls, *refreshes, return_exceptions=True)
    assert not any(isinstance(result, asyncio.CancelledError) for result in results)


async def test_closing_waits_for_nobody(kms: FakeRemote, gate: threading.Event) -> None:
    kms.always = gate.wait
    call = asyncio.ensure_future(kms.wrap(of("alice"), KEY))
    await eventually(lambda: kms.running == 1)
    await asyncio.wait_for(kms.close(), 0.5)
    gate.set()
    await call
