"""What the base class guarantees for every backend, however it was written."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Sequence

import pytest

from kek_backends.base import KekBackend, OwnedWrap, Rewrapped, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import (
    Denied,
    KekError,
    Misconfigured,
    Tampered,
    Throttled,
    Transient,
)
from kek_backends.findings import Finding, Verdict
from kek_backends.proof import prove_binding
from kek_backends.uri import KekUri
from tests.bindings import of
from tests.kek.broken import (
    Good,
    IgnoresTheGeneration,
    IgnoresThePurpose,
    IgnoresTheUser,
    ReturnsAnotherKey,
)
from tests.kek.fakes import FakeKms, SdkError
from tests.kek.kit import failure

PLAINTEXT = "the-plaintext-of-another-user"
WRAP = Wrap("opaque", "", 3, "fake-v1")


def sdk_error() -> SdkError:
    error = SdkError(f"partial failure: {PLAINTEXT}")
    error.__cause__ = ValueError(PLAINTEXT)
    return error


CALLS: dict[str, Callable[[KekBackend], Awaitable[object]]] = {
    "wrap": lambda backend: backend.wrap(of("alice"), b"k" * 32),
    "unwrap": lambda backend: backend.unwrap(of("alice"), WRAP),
    "re-wrap": lambda backend: backend.rewrap([OwnedWrap(of("alice"), WRAP)]),
}
USES = pytest.mark.parametrize("use", CALLS)


@USES
async def test_nothing_of_an_sdks_error_travels_on(use: str) -> None:
    error = await failure(CALLS[use](FakeKms(error=sdk_error())))
    assert type(error) is Transient
    assert str(error) == f"fake:key: SdkError while {use}ping"
    assert PLAINTEXT not in "".join(traceback.format_exception(error))
    assert PLAINTEXT not in repr(error)


@USES
@pytest.mark.parametrize("kind", [Denied, Throttled, Tampered])
async def test_own_errors_keep_their_type_and_lose_what_they_came_from(
    use: str, kind: type[KekError]
) -> None:
    raised = kind("why")
    raised.__cause__ = sdk_error()
    raised.__context__ = sdk_error()
    error = await failure(CALLS[use](FakeKms(error=raised)))
    assert type(error) is kind
    assert str(error) == "why"


@USES
async def test_cancellation_passes(use: str) -> None:
    with pytest.raises(asyncio.CancelledError):
        await CALLS[use](FakeKms(error=asyncio.CancelledError()))


@pytest.mark.parametrize("size", [0, 1, 16, 31, 33, 64])
async def test_keys_of_another_size_go_neither_in_nor_out(size: int) -> None:
    backend = FakeKms(master_key=bytes(size))
    with pytest.raises(ValueError, match="32 bytes"):
        await backend.wrap(of("alice"), bytes(size))
    assert backend.calls == []
    assert type(await failure(backend.unwrap(of("alice"), WRAP))) is Tampered


async def test_good_calls_pass_through() -> None:
    backend = FakeKms()
    assert await backend.wrap(of("alice"), b"k" * 32) == WRAP
    assert await backend.unwrap(of("alice"), WRAP) == b"k" * 32
    assert backend.calls == ["wrap alice", "unwrap alice"]


@pytest.mark.parametrize("key", ["k" * 32, bytearray(32), None])
async def test_what_is_no_bytes_is_no_master_key(key: object) -> None:
    """An SDK is not typed: text of 32 characters would pass for a key of 32 bytes."""
    backend = FakeKms(master_key=key)  # type: ignore[arg-type]
    assert type(await failure(backend.unwrap(of("alice"), WRAP))) is Tampered


@pytest.mark.parametrize(
    "wrap",
    [
        Wrap("opaque", "", 3, "fake-v2"),
        Wrap("x", "", 1, "fake-v1"),
        Wrap("x", "", 2, "fake-v1"),
        Wrap("x", "", 3, ""),
    ],
)
async def test_a_wrap_that_could_never_be_opened_is_not_handed_out(
    wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def made(binding: Binding, key: bytes) -> Wrap:
        return wrap

    backend = FakeKms("fake-v1", rewrapped=[wrap])
    monkeypatch.setattr(backend, "_wrap", made)
    for use in ("wrap", "re-wrap"):
        error = await failure(CALLS[use](backend))
        assert type(error) is Misconfigured
        assert str(error) == "KEK fake:key: the backend made a wrap that is not its own"


async def test_a_kms_that_was_not_asked_yet_may_stamp_what_it_holds() -> None:
    backend = FakeKms(None, also_holds=["fake-late"])
    assert (await backend.wrap(of("alice"), b"k" * 32)).kek_id == "fake-late"


def test_holds_exactly_its_own_kek_id() -> None:
    backend = FakeKms("fake-v1")
    assert backend.holds("fake-v1")
    assert not any(backend.holds(other) for other in ("fake-v10", "fake-v", "", "FAKE-V1"))
    assert not FakeKms(None).holds("")


async def test_a_kek_in_this_process_has_nothing_to_learn_and_no_problem() -> None:
    backend = FakeKms()
    await backend.refresh()
    assert backend.problem is None
    assert backend.refusal("fake-v1") is None
    assert backend.calls == []


ITEMS = [OwnedWrap(of(user), WRAP) for user in ("alice", "bob", "carol")]


async def test_rewrap_returns_what_the_kms_made_item_by_item() -> None:
    bad = Tampered("bob's")
    made: list[Rewrapped] = [Wrap("a", "", 3, "fake-v1"), bad, Wrap("c", "", 3, "fake-v1")]
    assert await FakeKms(rewrapped=made).rewrap(ITEMS) == made


@pytest.mark.parametrize("format_version", [1, 2, 4])
async def test_rewrap_in_a_kms_is_for_format_3_alone(format_version: int) -> None:
    """Item by item: what the KMS makes of the others is still theirs."""
    backend = FakeKms()
    old = OwnedWrap(of("bob"), WRAP._replace(format_version=format_version))
    first, refused, last = await backend.rewrap([ITEMS[0], old, ITEMS[2]])
    assert (first, last) == (
        Wrap("rewrapped alice", "", 3, "fake-v1"),
        Wrap("rewrapped carol", "", 3, "fake-v1"),
    )
    # Not Tampered: nothing is wrong with its row.
    assert type(refused) is KekError
    assert backend.calls == ["rewrap alice carol"]


@pytest.mark.parametrize("count", [0, 2, 4])
async def test_rewrap_of_another_length_is_no_answer(count: int) -> None:
    """Paired with the wrong rows, each user would get another user's key."""
    backend = FakeKms(rewrapped=[WRAP] * count)
    with pytest.raises(Transient, match=f"fake:key: 3 wraps went in, {count} came out"):
        await backend.rewrap(ITEMS)


async def test_rewrap_is_not_offered_by_itself() -> None:
    backend = Good.made()
    assert not backend.can_rewrap_from(backend)
    with pytest.raises(Transient, match="NotImplementedError while re-wrapping"):
        await backend.rewrap(ITEMS)


async def test_proof_of_a_good_kek() -> None:
    backend = Good.made()
    await backend.prove()
    assert await prove_binding(backend.uri, backend.wrap, backend.unwrap) == "env-v1"


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        (IgnoresTheUser, "a wrap opens for another user too: it is not bound as it must be"),
        (
            IgnoresTheGeneration,
            "a wrap opens for another generation too: it is not bound as it must be",
        ),
        (IgnoresThePurpose, "a wrap opens for another purpose too: it is not bound as it must be"),
        (ReturnsAnotherKey, "what it wraps does not open again"),
    ],
)
async def test_proof_of_a_bad_kek(backend: type[Good], why: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        await backend.made().prove()
    assert str(caught.value) == f"KEK env:KEK: {why}"
    with pytest.raises(Misconfigured):
        await backend.made().examine(active=True)


@pytest.mark.parametrize("error", [Transient("down"), Denied("no")])
@pytest.mark.parametrize(
    "untried",
    [
        Binding("custody-proof-own"),
        Binding("custody-proof-other"),
        Binding("custody-proof-own", 1),
        Binding.of_data_key("custody-proof-own"),
    ],
)
async def test_proof_that_could_not_be_tried(error: KekError, untried: Binding) -> None:
    """Not being asked is no answer: only Tampered says that the wrap is bound."""
    backend = Good.made()

    async def unwrap(binding: Binding, wrap: Wrap) -> bytes:
        if binding == untried:
            raise error
        return await backend.unwrap(binding, wrap)

    with pytest.raises(type(error)):
        await prove_binding(KekUri.parse("env:KEK"), backend.wrap, unwrap)


async def test_examination() -> None:
    wraps = [Finding(Verdict.OK, "wraps and unwraps; kek_id env-v1")]
    assert await Good.made().examine(active=True) == wraps


async def test_examination_of_a_decrypt_only_kek_wraps_nothing() -> None:
    backend = FakeKms(error=Denied("not yours to wrap with"))
    ready = [Finding(Verdict.OK, "ready to unwrap; kek_id fake-v1")]
    assert await backend.examine(active=False) == ready
    assert backend.calls == []
    with pytest.raises(Denied):
        await backend.examine(active=True)


def test_nothing_of_a_wrap_is_shown() -> None:
    shown: Sequence[object] = [WRAP, OwnedWrap(of("alice"), WRAP), ITEMS]
    assert all("opaque" not in f"{one!r} {one}" for one in shown)
