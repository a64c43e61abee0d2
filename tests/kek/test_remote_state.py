"""A remote KMS: what it knows of itself, the proof of its binding, and what it never says."""

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence

import pytest

from kek_backends import breaker, remote
from kek_backends.base import OwnedWrap, Rewrapped, Wrap
from kek_backends.errors import (
    Denied,
    KekError,
    Misconfigured,
    Tampered,
    Transient,
    VersionRetired,
)
from tests.bindings import of
from tests.eventually import eventually
from tests.kek.fakes import FakeRemote, SdkBusy, SdkError, raising, tampered
from tests.kek.kit import KEY, assert_silent, chain

# A wrap, which opens for its own binding, and not for another user, generation or purpose.
PROOF = ["encrypt", "decrypt", "decrypt", "decrypt", "decrypt"]

pytestmark = pytest.mark.usefixtures("quick")


async def test_not_reached_yet(fresh: FakeRemote) -> None:
    assert fresh.problem == "not reached yet"
    assert fresh.kek_id is None
    await fresh.refresh()
    assert fresh.problem is None
    assert fresh.kek_id == "fake:v1"
    assert fresh.calls == ["ask"]


async def test_refresh_that_fails_says_so_and_can_be_tried_again(kms: FakeRemote) -> None:
    kms.faults["ask"] = [raising(SdkError("no"))]
    with pytest.raises(Denied):
        await kms.refresh()
    assert kms.problem == "fake:remote: SdkError"
    await kms.refresh()
    assert kms.problem is None


async def test_the_unwrap_that_failed_is_tried_again_by_refresh(kms: FakeRemote) -> None:
    """The status of a key says nothing of the right to decrypt."""
    wrap = await kms.some_wrap()
    kms.faults["decrypt"] = [raising(SdkError("no"))] * 3
    with pytest.raises(Denied):
        await kms.unwrap(of("alice"), wrap)
    for _ in range(2):
        await kms.refresh()
        assert kms.problem == "fake:remote: SdkError"
    kms.calls.clear()
    await kms.refresh()
    assert kms.problem is None
    assert kms.calls == ["ask", "decrypt"]
    await kms.refresh()
    assert kms.calls == ["ask", "decrypt", "ask"]


async def test_a_damaged_row_is_no_problem_of_the_kek(kms: FakeRemote) -> None:
    wrap = await kms.some_wrap()
    kms.faults["decrypt"] = [raising(SdkError("no")), tampered, tampered]
    with pytest.raises(Denied):
        await kms.unwrap(of("alice"), wrap)
    with pytest.raises(Tampered):
        await kms.unwrap(of("alice"), wrap)
    assert kms.problem is None
    await kms.refresh()
    assert kms.calls == ["decrypt", "decrypt", "ask"]


async def test_a_row_of_a_retired_version_makes_a_refresh_due(kms: FakeRemote) -> None:
    """Somebody changed the key since it was asked about; but its KEK has no problem."""
    wrap = await kms.some_wrap()
    assert kms.refresh_seconds == 30
    kms.faults["decrypt"] = [tampered, raising(VersionRetired("old")), tampered]
    with pytest.raises(Tampered):
        await kms.unwrap(of("alice"), wrap)
    assert kms.refresh_seconds == 30
    with pytest.raises(VersionRetired):
        await kms.unwrap(of("alice"), wrap)
    with pytest.raises(Tampered):
        await kms.unwrap(of("alice"), wrap)
    assert (kms.refresh_seconds, kms.problem) == (0, None)
    await kms.refresh()
    assert kms.refresh_seconds == 30


async def test_an_unwrap_of_another_user_clears_it(kms: FakeRemote) -> None:
    wrap = await kms.some_wrap()
    kms.faults["decrypt"] = [raising(SdkError("no"))]
    with pytest.raises(Denied):
        await kms.unwrap(of("alice"), wrap)
    assert kms.problem
    await kms.unwrap(of("alice"), wrap)
    assert kms.problem is None


async def test_the_wrap_that_failed_is_tried_again_by_refresh(kms: FakeRemote) -> None:
    kms.faults["encrypt"] = [raising(SdkError("no"))] * 2
    with pytest.raises(Denied):
        await kms.wrap(of("alice"), KEY)
    await kms.refresh()
    assert kms.problem == "fake:remote: SdkError"
    await kms.refresh()
    assert kms.problem is None


# The binding


async def test_nothing_is_wrapped_before_the_binding_is_proven(fresh: FakeRemote) -> None:
    assert (await fresh.wrap(of("alice"), KEY)).kek_id == "fake:v1"
    # The user's, then the proof.
    assert fresh.calls == ["encrypt", *PROOF]
    await fresh.wrap(of("alice"), KEY)
    assert fresh.calls[6:] == ["encrypt"]


@pytest.mark.parametrize("proven", [True, False])
async def test_a_kms_that_ignores_the_user_never_gives_a_wrap(proven: bool) -> None:
    kms = FakeRemote(ignores_user=True)
    if proven:
        with pytest.raises(Misconfigured, match="opens for another user too"):
            await kms.prove()
    for _ in range(3):
        with pytest.raises(Misconfigured, match="opens for another user too"):
            await kms.wrap(of("alice"), KEY)
        await kms.refresh()
        assert "opens for another user too" in (kms.problem or "")
    results = await asyncio.gather(
        *(kms.wrap(of("alice"), KEY) for _ in range(20)), return_exceptions=True
    )
    assert {type(result) for result in results} == {Misconfigured}
    with pytest.raises(Misconfigured):
        await kms.rewrap([])
    await kms.close()


async def test_many_first_wraps_share_one_proof(fresh: FakeRemote) -> None:
    await asyncio.gather(*(fresh.wrap(of("alice"), KEY) for _ in range(20)))
    assert Counter(fresh.calls) == {"encrypt": 21, "decrypt": 4}


async def test_a_kek_id_that_is_new_is_proven_anew(kms: FakeRemote) -> None:
    """Also where the KMS rotated the key since the last refresh."""
    kms.version = 2
    assert kms.kek_id == "fake:v1"
    assert (await kms.wrap(of("alice"), KEY)).kek_id == "fake:v2"
    assert kms.calls == ["encrypt", *PROOF]
    assert kms.problem is None
    assert (await kms.wrap(of("alice"), KEY)).kek_id == "fake:v2"
    assert kms.calls[6:] == ["encrypt"]


async def test_a_kek_id_that_does_not_bind_never_gives_a_wrap(kms: FakeRemote) -> None:
    kms.version, kms._ignores_user = 2, True
    for _ in range(3):
        with pytest.raises(Misconfigured):
            await kms.wrap(of("alice"), KEY)


async def test_a_key_that_changes_during_the_proof_gives_no_unproven_wrap(
    kms: FakeRemote,
) -> None:
    def rotate() -> None:
        kms.version += 1

    kms.version = 2
    kms.faults["encrypt"] = [lambda: None, rotate]
    with pytest.raises(Transient, match="the key changes at this moment"):
        await kms.wrap(of("alice"), KEY)
    assert (await kms.wrap(of("alice"), KEY)).kek_id == "fake:v3"


async def test_proof_that_is_asked_for_is_made_again(kms: FakeRemote) -> None:
    await kms.prove()
    assert kms.calls == PROOF


class BackgroundRewrap(FakeRemote):
    """Re-wraps, in its KMS, to the version of the moment."""

    async def _reencrypt(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        return await self._call(lambda: [self._encrypt(item.binding, KEY) for item in items])


async def test_rewrap_proves_what_it_made() -> None:
    kms = BackgroundRewrap()
    items = [OwnedWrap(of("alice"), Wrap("x", "", 3, "fake:v1"))]
    assert len(await kms.rewrap(items)) == 1
    assert kms.calls == [*PROOF, "encrypt"]
    await kms.refresh()
    kms.calls.clear()
    await kms.rewrap(items)
    assert kms.calls == ["encrypt"]
    kms.version, kms._ignores_user = 2, True
    with pytest.raises(Misconfigured):
        await kms.rewrap(items)
    await kms.close()


# Secrets


@pytest.mark.parametrize("sdk", [SdkError, SdkBusy, ValueError])
@pytest.mark.parametrize("use", ["wrap", "unwrap", "refresh", "prove"])
async def test_nothing_of_an_sdks_error_travels_on(
    kms: FakeRemote, use: str, sdk: type[Exception]
) -> None:
    wrap = await kms.some_wrap()
    kms.always = raising(sdk("the-plaintext-of-another-user"))
    calls = {
        "wrap": lambda: kms.wrap(of("alice"), KEY),
        "unwrap": lambda: kms.unwrap(of("alice"), wrap),
        "refresh": kms.refresh,
        "prove": kms.prove,
    }
    with pytest.raises(KekError) as caught:
        await calls[use]()
    assert_silent(["plaintext"], caught.value)
    shown = [repr(one) for one in chain(caught.value)]
    assert not any("Sdk" in one and "fake:remote" not in one for one in shown)
    assert "plaintext" not in (kms.problem or "")


async def test_a_problem_is_of_one_kek_id(kms: FakeRemote) -> None:
    """An old key that is disabled, behind an alias: users of the new one don't make it well."""
    old = await kms.some_wrap()
    kms.version = 2
    new = await kms.some_wrap()
    kms.faults["decrypt"] = [raising(SdkError("disabled"))]
    with pytest.raises(Denied):
        await kms.unwrap(of("alice"), old)
    assert await kms.unwrap(of("alice"), new) == KEY
    assert kms.problem == "fake:remote: SdkError"
    assert await kms.unwrap(of("alice"), old) == KEY
    assert kms.problem is None


async def test_an_unwrap_that_nobody_asks_for_any_more_is_forgotten(
    kms: FakeRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row may be gone: else a KEK would be unwell for ever."""
    wrap = await kms.some_wrap()
    kms.always = raising(SdkError("disabled"))
    kms.faults["ask"] = [lambda: None] * 3
    with pytest.raises(Denied):
        await kms.unwrap(of("alice"), wrap)
    await kms.refresh()
    assert kms.problem == "fake:remote: SdkError"
    monkeypatch.setattr(remote, "_FORGET_SECONDS", -1.0)
    await kms.refresh()
    assert kms.problem is None


async def test_new_key_material_is_proven_in_the_background(kms: FakeRemote) -> None:
    """A slow KMS: the calls of a proof don't fit into a request."""
    kms.version = 2
    kms.calls.clear()
    await kms.refresh()
    assert kms.calls == ["ask", *PROOF]
    kms.calls.clear()
    assert (await kms.wrap(of("alice"), KEY)).kek_id == "fake:v2"
    assert kms.calls == ["encrypt"]


async def test_a_decrypt_only_kek_is_never_proven_by_refresh(fresh: FakeRemote) -> None:
    for version in (1, 2):
        fresh.version = version
        await fresh.refresh()
    assert fresh.calls == ["ask", "ask"]


async def test_a_wrap_that_was_given_up_is_made_good_by_refresh(
    kms: FakeRemote, gate: threading.Event
) -> None:
    kms.faults["encrypt"] = [gate.wait]
    call = asyncio.create_task(kms.wrap(of("alice"), KEY))
    await eventually(lambda: kms.calls == ["encrypt"])
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    gate.set()
    assert "no answer within the time of a request" in (kms.problem or "")
    await kms.refresh()
    assert kms.problem is None


async def test_a_status_that_is_well_does_not_close_the_breaker(kms: FakeRemote) -> None:
    """The KMS says how its key is, and hangs when it shall use it."""
    wrap = await kms.some_wrap()
    kms.always = raising(SdkBusy("hangs"))
    kms.faults["ask"] = [lambda: None]
    for _ in range(breaker.FAILURES):
        with pytest.raises(Transient):
            await kms.unwrap(of("alice"), wrap)
    await kms.refresh()
    kms.calls.clear()
    with pytest.raises(Transient, match="not asked"):
        await kms.unwrap(of("alice"), wrap)
    assert kms.calls == []
