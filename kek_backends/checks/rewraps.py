"""Re-wraps inside a KMS, for backends that can; a backend that can't is not asked to."""

from collections.abc import Iterator

from kek_backends.base import OwnedWrap, Rewrapped, Wrap
from kek_backends.binding import Binding, Purpose
from kek_backends.checks.subject import (
    Subject,
    expect,
    expect_opens,
    good,
    new_key,
    of,
    refused,
    wrapped,
)
from kek_backends.errors import KekError, Tampered

_ITEMS = 9


async def check_rewrap_keeps_key_and_user(subject: Subject) -> None:
    """Each item, in its order, holds the same key for its binding, under the current kek_id."""
    async with subject.backend() as kek:
        if not kek.can_rewrap_from(kek):
            return
        expect(await good("no items must do", kek.rewrap([])) == [], "of no items came some")
        keys = [new_key() for _ in range(_ITEMS)]
        owners = [of(f"user-{number}", generation=number) for number in range(_ITEMS - 1)]
        owners.append(Binding.of_data_key("user-0"))
        items = [
            OwnedWrap(owner, await wrapped(kek, owner, key))
            for owner, key in zip(owners, keys, strict=True)
        ]
        done = await good("re-wrapping good wraps must succeed", kek.rewrap(items))
        expect(len(done) == _ITEMS, f"{_ITEMS} wraps went in, {len(done)} came out")
        for item, key, result in zip(items, keys, done, strict=True):
            new = _made(result)
            expect(new.kek_id == kek.kek_id, f"a re-wrap is stamped {new.kek_id}")
            await expect_opens(kek, item.binding, new, key, "a re-wrap")
            await expect_opens(kek, item.binding, item.wrap, key, "a wrap that was re-wrapped")
            for which, other in _others(item.binding):
                await refused(
                    f"a re-wrap must not open for another {which}", kek.unwrap(other, new), Tampered
                )


async def check_rewrap_tells_bad_items_from_good(subject: Subject) -> None:
    """An item that can't be opened is reported in its place; the others are re-wrapped."""
    async with subject.backend() as kek:
        if not kek.can_rewrap_from(kek):
            return
        key = new_key()
        alice = of("alice")
        wrap = await wrapped(kek, alice, key)
        text = wrap.wrapped_mk
        bad = {
            0: OwnedWrap(of("mallory"), wrap),
            1: OwnedWrap(of("alice", generation=8), wrap),
            2: OwnedWrap(alice, wrap._replace(wrapped_mk=text[:-8])),
            4: OwnedWrap(Binding.of_data_key("alice"), wrap),
            5: OwnedWrap(alice, wrap._replace(wrapped_mk="")),
            _ITEMS - 1: OwnedWrap(alice, wrap._replace(format_version=1)),
        }
        items = [bad.get(at, OwnedWrap(alice, wrap)) for at in range(_ITEMS)]
        done = await good("some bad items must not fail the others", kek.rewrap(items))
        expect(len(done) == _ITEMS, f"{_ITEMS} wraps went in, {len(done)} came out")
        for at, result in enumerate(done):
            if at in bad:
                expect(isinstance(result, KekError), f"item {at} is bad, and was not reported")
            else:
                await expect_opens(kek, alice, _made(result), key, f"the re-wrap of item {at}")
        only_bad = await good("bad items alone must not fail the call", kek.rewrap([bad[0]]))
        expect(
            len(only_bad) == 1 and isinstance(only_bad[0], KekError),
            "one bad item alone was not reported",
        )


def _others(owner: Binding) -> Iterator[tuple[str, Binding]]:
    yield "subject", owner._replace(subject="mallory")
    if owner.purpose is Purpose.MASTER_KEY:
        yield "generation", owner._replace(generation=owner.generation + 1)
        yield "purpose", Binding.of_data_key(owner.subject)
    else:
        yield "purpose", Binding(owner.subject, owner.generation)


def _made(result: Rewrapped) -> Wrap:
    if isinstance(result, Wrap):
        return result
    raise AssertionError(f"a good wrap was not re-wrapped: {type(result).__name__}: {result}")
