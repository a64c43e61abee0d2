"""A backend as the daemon uses it: refreshed, examined, cancelled, shown in a log, closed."""

import asyncio
from collections.abc import Iterator

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


def _held(kek: KekBackend) -> Iterator[str]:
    """Yield the text forms of the bytes in an instance: they are its keys, or as good as."""
    for value in getattr(kek, "__dict__", {}).values():
        if isinstance(value, bytes) and len(value) >= _SECRET_SIZE:
            yield from forms(value)
