"""A backend as the daemon uses it: refreshed, examined, cancelled, shown in a log, closed.

And as a guest in its process: it blocks no event loop, and leaves nothing behind.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from kek_backends.base import KekBackend
from kek_backends.checks.subject import (
    Subject,
    expect,
    expect_opens,
    forms,
    good,
    new_key,
    of,
    wrapped,
)
from kek_backends.findings import Finding, Verdict

_CANCELLED = 20
_INSTANCES = 8
# A call as long as this leaves the loop to others now and then.
_LONG_SECONDS = 0.5
_TRIES = 3
_GONE_SECONDS = 10.0
_DESCRIPTORS = Path("/proc/self/fd")
_SECRET_SIZE = 16


async def check_refresh_changes_nothing(subject: Subject) -> None:
    """Refreshing again, as the daemon does every half minute, leaves a good KEK as it is."""
    async with subject.backend() as kek:
        key = new_key()
        before, wrap = kek.kek_id, await wrapped(kek, "alice", key)
        for _ in range(3):
            await good("a refresh must succeed again", kek.refresh())
            expect(kek.kek_id == before, "a refresh changed the kek_id of a KEK that is the same")
            expect(kek.problem is None, f"a good KEK has a problem: {kek.problem}")
            refusal = kek.refusal(wrap.kek_id)
            expect(refusal is None, f"a good KEK refuses its own kek_id: {refusal}")
        await expect_opens(kek, "alice", wrap, key, "a wrap from before a refresh")


async def check_diagnostics(subject: Subject) -> None:
    """The diagnostics of a good active KEK say that it is good, in single lines."""
    async with subject.backend() as kek:
        for active in (True, False):
            seen = await good("the diagnostics must succeed", kek.examine(active=active))
            expect(seen, "diagnostics that say nothing help nobody")
            for one in seen:
                expect(isinstance(one, Finding), f"{one!r} is not a Finding")
                expect(len(one.message.splitlines()) == 1, "a message has one line")
                expect(
                    one.verdict is Verdict.OK or not active,
                    f"of a good active KEK the diagnostics say {one.verdict}: {one.message}",
                )
                for secret in subject.secrets:
                    expect(secret not in one.message, "a message shows a secret")


async def check_cancelled_calls_do_no_harm(subject: Subject) -> None:
    """Users who give up, at any moment of their call, leave the KEK usable for the others."""
    async with subject.backend() as kek:
        key = new_key()
        wrap = await wrapped(kek, "alice", key)
        calls: list[asyncio.Task[object]] = []
        for number in range(_CANCELLED):
            calls.append(asyncio.ensure_future(kek.wrap(of(f"user-{number}"), key)))
            calls.append(asyncio.ensure_future(kek.unwrap(of("alice"), wrap)))
        for call in calls:
            await asyncio.sleep(0)
            call.cancel()
        for result in await asyncio.gather(*calls, return_exceptions=True):
            expect(
                not isinstance(result, Exception),
                f"a call that was cancelled raised {type(result).__name__}: {result}",
            )
        await expect_opens(kek, "alice", wrap, key, "a wrap, after cancelled calls,")
        await expect_opens(
            kek, "bob", await wrapped(kek, "bob", key), key, "a wrap made after them"
        )


async def check_nothing_secret_is_shown(subject: Subject) -> None:
    """Neither the backend nor a wrap shows key material when it is printed."""
    async with subject.backend() as kek:
        key = new_key()
        wrap = await wrapped(kek, "alice", key)
        await expect_opens(kek, "alice", wrap, key, "a wrap")
        shown = f"{kek} {kek!r} {kek.uri} {kek.uri!r} {kek.problem} {kek.plain_address}"
        shown += f" {wrap} {wrap!r}"
        expect(wrap.wrapped_mk not in shown, "the text form of a wrap shows its ciphertext")
        for text in forms(key):
            expect(text not in shown, "the text form of the backend shows a master key")
        for secret in (*subject.secrets, *_held(kek)):
            expect(secret not in shown, "the text form of the backend shows a secret")


async def check_closing(subject: Subject) -> None:
    """Closing is possible at any time, twice too, and concerns no other instance."""
    async with subject.backend() as other:
        unused = await subject.open()
        await good("an instance that was never used must close", unused.close())
        used, key = await subject.open(), new_key()
        await good("a refresh must succeed", used.refresh())
        wrap = await wrapped(used, "alice", key)
        await good("an instance must close", used.close())
        await good("an instance must close again", used.close())
        await expect_opens(other, "alice", wrap, key, "after another instance was closed, a wrap")


async def check_the_loop_is_not_blocked(subject: Subject) -> None:
    """A call that takes its time gives the loop back meanwhile: others are served in it."""
    async with subject.backend() as kek:
        key = new_key()
        wrap = await wrapped(kek, "alice", key)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "wrap": lambda: kek.wrap(of("alice"), key),
            "unwrap": lambda: kek.unwrap(of("alice"), wrap),
            "refresh": kek.refresh,
        }
        for name, call in calls.items():
            # A busy machine may stop this thread once for as long; not each time.
            blocked = [await _blocks(call) for _ in range(_TRIES)]
            expect(not all(blocked), f"{name} blocks the event loop while it waits")


async def check_nothing_is_left_behind(subject: Subject) -> None:
    """Instances that were used and closed leave no threads and no descriptors open."""

    async def use() -> None:
        async with subject.backend() as kek:
            key = new_key()
            wrap = await wrapped(kek, "alice", key)
            await expect_opens(kek, "alice", wrap, key, "a wrap")

    await use()  # what is made once, and shared by all, counts for none
    before = _threads(), _descriptors()
    for _ in range(_INSTANCES):
        await use()
    until = time.monotonic() + _GONE_SECONDS
    # Some of either may come and go with what else runs; one for each instance does not.
    while _grown(before) and time.monotonic() < until:  # noqa: ASYNC110 - no thread tells its end
        await asyncio.sleep(0.05)
    grown = _grown(before)
    expect(not grown, f"{_INSTANCES} instances that were closed left behind: {grown}")


async def _blocks(call: Callable[[], Awaitable[object]]) -> bool:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    counting = asyncio.create_task(count())
    began = time.monotonic()
    try:
        await good("a call must succeed", call())
    finally:
        took = time.monotonic() - began
        counting.cancel()
    return took >= _LONG_SECONDS and turns <= 1


def _threads() -> int:
    return threading.active_count()


def _descriptors() -> int:
    return len(list(_DESCRIPTORS.iterdir())) if _DESCRIPTORS.exists() else 0


def _grown(before: tuple[int, int]) -> str:
    now = _threads(), _descriptors()
    names = ("threads", "descriptors")
    found = [
        f"{name}: {count - was}"
        for name, count, was in zip(names, now, before, strict=True)
        if count - was >= _INSTANCES
    ]
    return ", ".join(found)


def _held(kek: KekBackend) -> Iterator[str]:
    """Yield the text forms of the bytes in an instance: they are its keys, or as good as."""
    for value in getattr(kek, "__dict__", {}).values():
        if isinstance(value, bytes) and len(value) >= _SECRET_SIZE:
            yield from forms(value)
