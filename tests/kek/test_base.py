"""What the base class guarantees for every backend, however it was written."""

import asyncio
import traceback

import pytest

from kek_backends.base import Wrap
from kek_backends.errors import Denied, KekError, Tampered, Throttled, Transient
from tests.kek.fakes import FakeKms, SdkError

PLAINTEXT = "the-plaintext-of-another-user"
WRAP = Wrap("opaque", "", 2, "fake-v1")


def sdk_error() -> SdkError:
    try:
        raise ValueError(PLAINTEXT)
    except ValueError as cause:
        error = SdkError(f"partial failure: {PLAINTEXT}")
        error.__cause__ = cause
        return error


async def failure(backend: FakeKms, use: str) -> KekError:
    wrapping = use == "wrap"
    call = backend.wrap("alice", b"k" * 32) if wrapping else backend.unwrap("alice", WRAP)
    with pytest.raises(KekError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("use", ["wrap", "unwrap"])
async def test_nothing_of_an_sdks_error_travels_on(use: str) -> None:
    error = await failure(FakeKms(error=sdk_error()), use)
    assert type(error) is Transient
    assert str(error) == f"fake:key: SdkError while {use}ping"
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert PLAINTEXT not in "".join(traceback.format_exception(error))
    assert PLAINTEXT not in repr(error)


@pytest.mark.parametrize("use", ["wrap", "unwrap"])
@pytest.mark.parametrize("kind", [Denied, Throttled, Tampered])
async def test_own_errors_keep_their_type(use: str, kind: type[KekError]) -> None:
    error = await failure(FakeKms(error=kind("why")), use)
    assert type(error) is kind
    assert str(error) == "why"


@pytest.mark.parametrize("use", ["wrap", "unwrap"])
async def test_cancellation_passes(use: str) -> None:
    backend = FakeKms(error=asyncio.CancelledError())  # type: ignore[arg-type]
    call = backend.wrap("a", b"k" * 32) if use == "wrap" else backend.unwrap("a", WRAP)
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize("size", [0, 1, 16, 31, 33, 64])
async def test_keys_of_another_size_go_neither_in_nor_out(size: int) -> None:
    backend = FakeKms(master_key=bytes(size))
    with pytest.raises(ValueError, match="32 bytes"):
        await backend.wrap("alice", bytes(size))
    assert backend.calls == []
    assert type(await failure(backend, "unwrap")) is Tampered


async def test_good_calls_pass_through() -> None:
    backend = FakeKms()
    assert await backend.wrap("alice", b"k" * 32) == WRAP
    assert await backend.unwrap("alice", WRAP) == b"k" * 32
    assert backend.calls == ["wrap alice", "unwrap alice"]


def test_holds_exactly_its_own_kek_id() -> None:
    backend = FakeKms("fake-v1")
    assert backend.holds("fake-v1")
    assert not any(backend.holds(other) for other in ("fake-v10", "fake-v", "", "FAKE-V1"))
