"""Good wraps: what they are, who opens them, and nobody else."""

import asyncio
import re
import unicodedata
from collections.abc import Sequence

from kek_backends.base import FORMAT_CURRENT, KekBackend
from kek_backends.binding import Binding, Purpose
from kek_backends.checks.subject import (
    Subject,
    expect,
    expect_opens,
    forms,
    good,
    new_key,
    of,
    refused,
    wrapped,
)
from kek_backends.errors import KekError, Tampered

_KEK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}")
_USERS = 20
_TOGETHER = 50

_DATA_KEY = "dk-0195f3a0c0de7000a000000000000001"

# Ids that a careless binding takes for one another: cut off, stripped, folded, or run together.
_USER_IDS = (
    "a",
    "a ",
    " a",
    "A",
    "aa",
    "a\n",
    "a/b",
    "a%2Fb",
    'a"b\\c',
    "a:b=c,d",
    "0",
    "00",
    "ä",
    unicodedata.normalize("NFD", "ä"),
    "\N{GRINNING FACE}",
    "u" * 254,
    "u" * 255,
    "u" * 254 + "v",
    "\N{GRINNING FACE}" * 255,
    "a\nkek",
    "a\nkek_id",
    # What looks like parts of a binding, or like the id of a data key.
    "7",
    "a7",
    "a\x01",
    "15:custody wrap v3",
    "master key",
    _DATA_KEY,
)

_GENERATIONS = (0, 1, 2, 10, 2**53, 2**63 - 1)


async def check_round_trip(subject: Subject) -> None:
    """What was wrapped opens for its user, again and again, and the wrap hides it."""
    async with subject.backend() as kek:
        for key in (new_key(), bytes(32), b"\xff" * 32):
            wrap = await wrapped(kek, "alice", key)
            for text in forms(key):
                expect(text not in wrap.wrapped_mk, "the wrap shows the master key")
                expect(text not in wrap.wrap_iv, "the wrap's IV shows the master key")
            await expect_opens(kek, "alice", wrap, key, "a wrap")
            await expect_opens(kek, "alice", wrap, key, "a wrap that was opened before")


async def check_stamp(subject: Subject) -> None:
    """A wrap carries the kek_id that the backend says, and the backend holds it."""
    async with subject.backend() as kek:
        wrap = await wrapped(kek, "alice", new_key())
        expect(kek.kek_id is not None, "after a refresh the kek_id must be known")
        expect(
            wrap.kek_id == kek.kek_id,
            f"the wrap is stamped {wrap.kek_id}, but the backend says {kek.kek_id}",
        )
        expect(kek.holds(wrap.kek_id), f"the backend does not hold its own kek_id {wrap.kek_id}")
        for other in ("", "of-another:kek"):
            expect(not kek.holds(other), f"the backend holds {other!r}, which it never stamps")


async def check_columns(subject: Subject) -> None:
    """A wrap fits into its row: text that can be stored, a kek_id of the allowed form, format 3."""
    async with subject.backend() as kek:
        wrap = await wrapped(kek, "alice", new_key())
    expect(
        wrap.format_version == FORMAT_CURRENT,
        f"the wrap's format is {wrap.format_version}: that of new wraps is {FORMAT_CURRENT}",
    )
    for name, text in (("wrapped_mk", wrap.wrapped_mk), ("wrap_iv", wrap.wrap_iv)):
        expect(isinstance(text, str), f"{name} is not text")
        # PostgreSQL stores neither NUL nor half a surrogate pair.
        storable = "\0" not in text and text == text.encode(errors="replace").decode()
        expect(storable, f"{name} must be text that PostgreSQL can store")
    expect(wrap.wrapped_mk, "wrapped_mk is empty")
    expect(
        _KEK_ID.fullmatch(wrap.kek_id),
        f"the kek_id {wrap.kek_id!r} must have 1 to 255 letters, digits and any of . _ : / -",
    )


async def check_another_instance_opens_it(subject: Subject) -> None:
    """Nothing that opening needs is kept in the process that wrapped."""
    key = new_key()
    async with subject.backend() as kek:
        wrap = await wrapped(kek, "alice", key)
    async with subject.backend() as other:
        expect(
            other.holds(wrap.kek_id),
            f"another instance does not hold {wrap.kek_id}, which the first one stamped",
        )
        await expect_opens(other, "alice", wrap, key, "a wrap of another instance")


async def check_fingerprint(subject: Subject) -> None:
    """All instances give one fingerprint, or none gives any."""
    async with subject.backend() as one, subject.backend() as other:
        kek_id = (await wrapped(one, "alice", new_key())).kek_id
        seen = one.fingerprint(kek_id), other.fingerprint(kek_id), one.fingerprint(kek_id)
    expect(len(set(seen)) == 1, "the fingerprint is not always the same for one KEK")
    expect(seen[0] is None or seen[0], "a fingerprint is None or a text that is not empty")
    for secret in subject.secrets:
        expect(secret not in (seen[0] or ""), "the fingerprint shows a secret")


async def check_wraps_open_for_their_user_only(subject: Subject) -> None:
    """A wrap copied into another user's row never opens: 20 users, all pairs."""
    async with subject.backend() as kek:
        await _expect_bound(kek, [of(f"user-{number}") for number in range(_USERS)])


async def check_user_ids_are_exact(subject: Subject) -> None:
    """Every id of 1 to 255 characters is taken as it is, and none for another that looks alike."""
    async with subject.backend() as kek:
        await _expect_bound(kek, [of(user_id) for user_id in _USER_IDS])


async def check_wraps_open_for_their_generation_only(subject: Subject) -> None:
    """A wrap of before a rotate never opens after it, nor the reverse: all pairs."""
    async with subject.backend() as kek:
        await _expect_bound(kek, [of("alice", generation) for generation in _GENERATIONS])


async def check_purposes_are_apart(subject: Subject) -> None:
    """A user's key never opens as a data key, nor the reverse, whatever the user is called."""
    async with subject.backend() as kek:
        users = [Binding(user_id) for user_id in (_DATA_KEY, "alice")]
        await _expect_bound(kek, [*users, *(Binding.of_data_key(user.subject) for user in users)])


async def check_wrong_sizes_are_refused(subject: Subject) -> None:
    """Nothing is wrapped that is no key."""
    async with subject.backend() as kek:
        for size in (0, 1, 16, 31, 33, 64):
            try:
                await kek.wrap(of("alice"), bytes(size))
            except (ValueError, KekError):
                continue
            raise AssertionError(f"{size} bytes were wrapped: a key has 32")


async def check_two_wraps_of_one_key_open(subject: Subject) -> None:
    """Wrapping again, for the same user or another, leaves the wraps of before alone."""
    async with subject.backend() as kek:
        key = new_key()
        rows = [(user, await wrapped(kek, user, key)) for user in ("alice", "alice", "bob")]
        expect(
            rows[0][1].wrapped_mk != rows[2][1].wrapped_mk,
            "one key wrapped for two users gave one ciphertext: it is not bound to its user",
        )
        for user, wrap in rows:
            await expect_opens(kek, user, wrap, key, "one of several wraps of a key")


async def check_many_calls_at_once(subject: Subject) -> None:
    """50 calls at the same time each get their own answer."""
    async with subject.backend() as kek:
        rows = [(f"user-{number}", new_key()) for number in range(_TOGETHER)]
        wraps = await asyncio.gather(*(wrapped(kek, user, key) for user, key in rows))
        await asyncio.gather(
            *(
                expect_opens(kek, user, wrap, key, "one of 50 wraps made at once")
                for (user, key), wrap in zip(rows, wraps, strict=True)
            )
        )


async def check_proof(subject: Subject) -> None:
    """The proof of the binding, which the daemon asks for at its start, succeeds."""
    async with subject.backend() as kek:
        await good("the proof of a good KEK must succeed", kek.prove())
        key = new_key()
        await expect_opens(kek, "alice", await wrapped(kek, "alice", key), key, "a wrap")


async def _expect_bound(kek: KekBackend, owners: Sequence[Binding]) -> None:
    """See that each wrap opens for its own binding and for none of the others."""
    keys = [new_key() for _ in owners]
    wraps = await asyncio.gather(*map(wrapped, [kek] * len(owners), owners, keys))

    async def expect_refused(at: int, other: Binding) -> None:
        sentence = f"the wrap of {_named(owners[at])} must not open for {_named(other)}"
        await refused(sentence, kek.unwrap(other, wraps[at]), Tampered)

    for at, (owner, key) in enumerate(zip(owners, keys, strict=True)):
        await expect_opens(kek, owner, wraps[at], key, f"the wrap of {_named(owner)}")
        await asyncio.gather(*(expect_refused(at, other) for other in owners if other != owner))


def _named(owner: Binding) -> str:
    whose = "data key" if owner.purpose is Purpose.DATA_KEY else "user"
    return f"{whose} {owner.subject!a:.40} in generation {owner.generation}"
