"""Damaged rows: each is refused, none opens, and no refusal shows what was in it."""

import asyncio
from collections.abc import Iterator

from kek_backends.base import KekBackend, Wrap
from kek_backends.checks.subject import (
    Subject,
    expect,
    expect_opens,
    new_key,
    of,
    refused,
    wrapped,
)
from kek_backends.errors import KekError, Tampered, VersionRetired

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_POSITIONS = 16
_SHOWN = 16
# What a backend says of a row. Any other error is taken as the state of the whole KEK, and one
# damaged row would stop the users of all the others.
_OF_THIS_ROW = (Tampered, VersionRetired)


async def check_damaged_ciphertext_is_tampering(subject: Subject) -> None:
    """A flipped character, a cut, garbage, or nothing at all in wrapped_mk."""
    async with subject.backend() as kek:
        wrap = await wrapped(kek, "alice", new_key())
        await _expect_refused(
            kek, [(which, wrap._replace(wrapped_mk=text)) for which, text in _damaged(wrap)]
        )


async def check_damaged_iv_is_tampering(subject: Subject) -> None:
    """The same in wrap_iv; a backend that needs none accepts the empty text alone."""
    async with subject.backend() as kek:
        wrap = await wrapped(kek, "alice", new_key())
        texts = ["AAAAAAAAAAAAAAAA", "A" * 32, "A", "!!", "ä", " ", "A" * 100_000]
        if wrap.wrap_iv:
            flips = [_flipped(wrap.wrap_iv, at) for at in range(len(wrap.wrap_iv))]
            texts += ["", wrap.wrap_iv[:-1], wrap.wrap_iv[:-4], wrap.wrap_iv * 2, *flips]
        await _expect_refused(
            kek, [(f"wrap_iv {text[:_SHOWN]!a}", wrap._replace(wrap_iv=text)) for text in texts]
        )


async def check_other_format_is_refused(subject: Subject) -> None:
    """A row of format 3 does not open as any other."""
    async with subject.backend() as kek:
        wrap = await wrapped(kek, "alice", new_key())
        await _expect_refused(
            kek,
            [
                (f"format_version {number}", wrap._replace(format_version=number))
                for number in (-1, 0, 1, 2, 4, 2**15 - 1)
            ],
            KekError,
        )


async def check_other_kek_id_is_refused(subject: Subject) -> None:
    """A row does not open under a stamp that it was not made with."""
    async with subject.backend() as kek:
        wrap = await wrapped(kek, "alice", new_key())
        last = "0" if wrap.kek_id[-1] != "0" else "1"
        ids = ["", "x", "of-another:kek", wrap.kek_id + last, wrap.kek_id[:-1] + last]
        ids += [wrap.kek_id.swapcase(), f" {wrap.kek_id}", wrap.kek_id[:-1]]
        others = [kek_id for kek_id in ids if kek_id != wrap.kek_id]
        await _expect_refused(
            kek, [(f"kek_id {other!a}", wrap._replace(kek_id=other)) for other in others], KekError
        )


async def check_swapped_columns_are_tampering(subject: Subject) -> None:
    """The columns of two rows, mixed, do not open."""
    async with subject.backend() as kek:
        one, two = new_key(), new_key()
        first, again = await wrapped(kek, "alice", one), await wrapped(kek, "alice", two)
        other = await wrapped(kek, "bob", new_key())
        mixed = [("wrapped_mk of another user", first._replace(wrapped_mk=other.wrapped_mk))]
        if first.wrap_iv != again.wrap_iv:
            mixed.append(("wrap_iv of another wrap", first._replace(wrap_iv=again.wrap_iv)))
            mixed.append(("wrapped_mk of another", first._replace(wrapped_mk=again.wrapped_mk)))
        await _expect_refused(kek, mixed)
        await expect_opens(kek, "alice", first, one, "a wrap whose damaged copies were refused")


def _damaged(wrap: Wrap) -> Iterator[tuple[str, str]]:
    text = wrap.wrapped_mk
    for at in sorted({*range(0, len(text), max(1, len(text) // _POSITIONS)), len(text) - 1}):
        yield f"wrapped_mk with character {at} changed", _flipped(text, at)
    for size in sorted({0, 1, 8, len(text) // 2, len(text) - 4, len(text) - 1}):
        yield f"wrapped_mk cut to {size} characters", text[:size]
    for start in (1, 4, len(text) // 2):
        yield f"wrapped_mk without its first {start} characters", text[start:]
    yield "wrapped_mk twice", text * 2
    yield "wrapped_mk with something at its end", text + "AAAA"
    yield "wrapped_mk with something at its start", "AAAA" + text
    yield "wrapped_mk with a line break at its end", text + "\n"
    yield "wrapped_mk with a space at its start", " " + text
    yield "wrapped_mk with something in its middle", f"{text[:40]}!{text[40:]}"
    for garbage in ("A", "A" * len(text), "!" * len(text), "\n", "ä" * 64, "A" * 100_000):
        yield f"wrapped_mk {garbage[:_SHOWN]!a}", garbage


def _flipped(text: str, at: int) -> str:
    # The highest of a base64 character's six bits: the lowest ones may mean nothing at the end.
    place = _ALPHABET.find(text[at])
    other = _ALPHABET[place ^ 32] if place >= 0 else "A"
    return text[:at] + other + text[at + 1 :]


async def _expect_refused(
    kek: KekBackend,
    rows: list[tuple[str, Wrap]],
    kinds: type[KekError] | tuple[type[KekError], ...] = _OF_THIS_ROW,
) -> None:
    async def expect_one(which: str, wrap: Wrap) -> None:
        error = await refused(
            f"a row with {which} must be refused", kek.unwrap(of("alice"), wrap), kinds
        )
        shown = f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"
        for text in (wrap.wrapped_mk, wrap.wrap_iv):
            secret = len(text) > _SHOWN and text in shown
            expect(not secret, f"the refusal of a row with {which} shows what was in it")

    await asyncio.gather(*(expect_one(which, wrap) for which, wrap in rows))
