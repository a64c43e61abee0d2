"""The conformance suite: ``env`` and ``systemd`` pass it, and broken backends do not."""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from kek_backends.base import KekBackend
from kek_backends.checks import life
from kek_backends.testing import CHECKS, Check, Subject
from tests.kek import broken
from tests.kek.broken import KEY, TEXT
from tests.kek.fakes import FakeRemote
from tests.leaks import remember

NAMED = {check.__name__: check for check in CHECKS}
every_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)


@every_check
async def test_env(check: Check) -> None:
    await check(Subject.named("env:KEK", environ={"KEK": remember(TEXT)}, secrets=[TEXT]))


@every_check
async def test_systemd(check: Check, tmp_path: Path) -> None:
    file = tmp_path / "kek"
    file.write_bytes(KEY)
    file.chmod(0o400)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    await check(Subject.named("systemd:kek", environ=environ, secrets=[TEXT]))


@every_check
async def test_remote(check: Check) -> None:
    await check(subject(FakeRemote))


@every_check
async def test_one_that_rewraps_inside(check: Check) -> None:
    await check(subject(broken.BackgroundRewrap.made))


def subject(backend: Callable[[], KekBackend], secrets: Sequence[str] = ()) -> Subject:
    async def open_() -> KekBackend:
        return backend()

    return Subject(open_, secrets)


@dataclass(frozen=True)
class Tooth:
    """A broken backend, and the check that is there to find it, with what it says."""

    backend: type[broken.Good]
    check: str
    says: str


TEETH = [
    Tooth(broken.IgnoresTheUser, "check_wraps_open_for_their_user_only", "must not open for user"),
    Tooth(broken.IgnoresTheUser, "check_proof", "opens for another user too"),
    Tooth(
        broken.IgnoresTheGeneration,
        "check_wraps_open_for_their_generation_only",
        "must not open for user 'alice' in generation 1",
    ),
    Tooth(broken.IgnoresTheGeneration, "check_proof", "opens for another generation too"),
    Tooth(broken.IgnoresThePurpose, "check_purposes_are_apart", "must not open for data key"),
    Tooth(broken.IgnoresThePurpose, "check_proof", "opens for another purpose too"),
    Tooth(broken.StripsTheUser, "check_user_ids_are_exact", "must not open for user"),
    Tooth(broken.CutsTheUser, "check_user_ids_are_exact", "must not open for user"),
    Tooth(broken.RefusesLongUsers, "check_user_ids_are_exact", "wrapping a key must succeed"),
    Tooth(broken.StampsAnother, "check_stamp", "stamped env-v0, but the backend says env-v1"),
    Tooth(broken.StampsWhatItDoesNotHold, "check_stamp", "a wrap that is not its own"),
    Tooth(broken.HoldsAll, "check_stamp", "which it never stamps"),
    Tooth(broken.StampsNoKekId, "check_columns", "the kek_id 'env v1' must have"),
    Tooth(broken.WritesFormat1, "check_columns", "a wrap that is not its own"),
    Tooth(broken.WritesFormat2, "check_columns", "a wrap that is not its own"),
    Tooth(broken.WritesFormat1PastTheBase, "check_columns", "the wrap's format is 1"),
    Tooth(broken.WritesNul, "check_columns", "must be text that PostgreSQL can store"),
    Tooth(broken.ShowsTheKey, "check_round_trip", "the wrap shows the master key"),
    Tooth(
        broken.AcceptsWhiteSpace, "check_damaged_ciphertext_is_tampering", "a line break at its end"
    ),
    Tooth(broken.IgnoresTheTail, "check_damaged_ciphertext_is_tampering", "wrapped_mk twice must"),
    Tooth(
        broken.IgnoresTheTag,
        "check_damaged_ciphertext_is_tampering",
        "must be refused, but it succ",
    ),
    Tooth(broken.CallsDamageAnOutage, "check_damaged_ciphertext_is_tampering", "raised Transient"),
    Tooth(broken.CallsDamageAnOutage, "check_swapped_columns_are_tampering", "raised Transient"),
    Tooth(broken.ShowsTheRow, "check_damaged_ciphertext_is_tampering", "shows what was in it"),
    Tooth(
        broken.IgnoresTheIv, "check_damaged_iv_is_tampering", "must be refused, but it succeeded"
    ),
    Tooth(
        broken.IgnoresTheFormat,
        "check_other_format_is_refused",
        "format_version -1 must be refused",
    ),
    Tooth(
        broken.IgnoresTheKekId, "check_other_kek_id_is_refused", "must be refused, but it succeeded"
    ),
    Tooth(broken.ReturnsAnotherSize, "check_round_trip", "opened to something that is no key"),
    Tooth(broken.ReturnsAnotherKey, "check_round_trip", "another key than was wrapped"),
    Tooth(broken.WrapsAnySize, "check_wrong_sizes_are_refused", "0 bytes were wrapped"),
    Tooth(broken.Remembers, "check_another_instance_opens_it", "must open for its own binding"),
    Tooth(
        broken.HasAnotherKeyEachTime,
        "check_another_instance_opens_it",
        "must open for its own binding",
    ),
    Tooth(broken.HasAnotherKeyEachTime, "check_fingerprint", "not always the same"),
    Tooth(broken.FingerprintOfTheDay, "check_fingerprint", "not always the same"),
    Tooth(broken.FingerprintIsTheKey, "check_fingerprint", "shows a secret"),
    Tooth(broken.OneCallAtATime, "check_many_calls_at_once", "another key than was wrapped"),
    Tooth(broken.NeverFreesItsLock, "check_cancelled_calls_do_no_harm", "no connection is free"),
    Tooth(broken.ChangesItsKekId, "check_refresh_changes_nothing", "a refresh changed the kek_id"),
    Tooth(broken.FailsToRefreshAgain, "check_refresh_changes_nothing", "must succeed again"),
    Tooth(broken.CannotBeProven, "check_proof", "the proof of a good KEK must succeed"),
    Tooth(broken.FindsFault, "check_diagnostics", "say finding: something is wrong"),
    Tooth(broken.TellsTheKek, "check_diagnostics", "a message shows a secret"),
    Tooth(broken.SaysNothing, "check_diagnostics", "help nobody"),
    Tooth(broken.ShowsItself, "check_nothing_secret_is_shown", "shows a secret"),
    Tooth(broken.CannotCloseTwice, "check_closing", "must close again"),
    Tooth(broken.ExitsOnDamage, "check_damaged_ciphertext_is_tampering", "raised SystemExit"),
    Tooth(broken.Blocks, "check_the_loop_is_not_blocked", "unwrap blocks the event loop"),
    Tooth(broken.LeavesThreads, "check_nothing_is_left_behind", "left behind: threads: 8"),
    Tooth(broken.LeavesDescriptors, "check_nothing_is_left_behind", "left behind: descriptors"),
    Tooth(
        broken.DropsBadItems,
        "check_rewrap_tells_bad_items_from_good",
        "9 wraps went in, 3 came out",
    ),
    Tooth(broken.Reorders, "check_rewrap_keeps_key_and_user", "a re-wrap must open for its own bi"),
    Tooth(
        broken.BadItemsLast, "check_rewrap_tells_bad_items_from_good", "item 0 is bad, and was not"
    ),
    Tooth(
        broken.OneBadItemFailsAll,
        "check_rewrap_tells_bad_items_from_good",
        "must not fail the others",
    ),
    Tooth(
        broken.RewrapsForAnyone, "check_rewrap_tells_bad_items_from_good", "item 0 is bad, and was"
    ),
    Tooth(
        broken.RewrapsForAnyGeneration,
        "check_rewrap_tells_bad_items_from_good",
        "item 1 is bad, and was",
    ),
    Tooth(
        broken.RewrapsToAnotherKey,
        "check_rewrap_keeps_key_and_user",
        "another key than was wrapped",
    ),
]


@pytest.mark.parametrize(
    "tooth", TEETH, ids=lambda tooth: f"{tooth.backend.__name__}-{tooth.check}"
)
async def test_broken_backend_is_found(tooth: Tooth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "_LONG_SECONDS", 0.1)
    monkeypatch.setattr(life, "_GONE_SECONDS", 0.1)
    monkeypatch.setattr(broken.LeavesThreads, "gate", gate := threading.Event())
    secrets = [TEXT]
    with pytest.raises(AssertionError) as caught:
        await NAMED[tooth.check](subject(tooth.backend.made, secrets))
    assert tooth.says in str(caught.value)
    assert KEY.hex() not in str(caught.value)
    gate.set()
    while broken.LeavesDescriptors.left:
        os.close(broken.LeavesDescriptors.left.pop())


@every_check
async def test_what_the_broken_ones_are_made_from_is_good(check: Check) -> None:
    await check(subject(broken.Good.made, [TEXT]))


def test_every_check_has_a_tooth() -> None:
    """The one without: two wraps of one key can't fail where the others pass."""
    assert set(NAMED) - {tooth.check for tooth in TEETH} == {"check_two_wraps_of_one_key_open"}


def test_secrets_of_a_subject_are_not_shown_by_a_failing_test() -> None:
    assert TEXT not in repr(Subject.named("env:KEK", environ={"KEK": TEXT}, secrets=[TEXT]))


async def test_every_instance_of_a_subject_is_new() -> None:
    named = Subject.named("env:KEK", environ={"KEK": TEXT})
    assert await named.open() is not await named.open()
