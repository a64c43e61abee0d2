"""The conformance suite that every KEK backend must pass; for third parties as well.

It needs no test framework: each check is an async function that takes a :class:`Subject` and
raises AssertionError with a sentence that says what is wrong. With pytest::

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_conformance(check):
        await check(Subject.named("mykms:key", environ={"MYKMS_TOKEN": TOKEN}))

The KEK of the subject is used for real: use one for tests.
"""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from kek_backends.checks import damage, life, rewraps, wraps
from kek_backends.checks.subject import Subject

Check: TypeAlias = Callable[[Subject], Awaitable[None]]

CHECKS: tuple[Check, ...] = (
    wraps.check_round_trip,
    wraps.check_stamp,
    wraps.check_columns,
    wraps.check_another_instance_opens_it,
    wraps.check_fingerprint,
    wraps.check_wraps_open_for_their_user_only,
    wraps.check_user_ids_are_exact,
    wraps.check_wraps_open_for_their_generation_only,
    wraps.check_purposes_are_apart,
    wraps.check_wrong_sizes_are_refused,
    wraps.check_two_wraps_of_one_key_open,
    wraps.check_many_calls_at_once,
    wraps.check_proof,
    damage.check_damaged_ciphertext_is_tampering,
    damage.check_damaged_iv_is_tampering,
    damage.check_other_format_is_refused,
    damage.check_other_kek_id_is_refused,
    damage.check_swapped_columns_are_tampering,
    life.check_refresh_changes_nothing,
    life.check_diagnostics,
    life.check_cancelled_calls_do_no_harm,
    life.check_nothing_secret_is_shown,
    life.check_closing,
    life.check_the_loop_is_not_blocked,
    life.check_nothing_is_left_behind,
    rewraps.check_rewrap_keeps_key_and_user,
    rewraps.check_rewrap_tells_bad_items_from_good,
)

__all__ = ["CHECKS", "Check", "Subject"]
