"""What a deep rotation sees in the data keys, before it changes anything."""

import asyncio
from typing import Any

from custody.datakeys.data_key import DataKey
from custody.rewrap.deep import DeepRotation
from kek_backends.base import KekBackend
from kek_backends.binding import Binding
from tests.datakeys import KEY, KEY_ID, FixedRing
from tests.rewrap.kit import keyring, new_kek, old_kek

BEFORE, CURRENT, AFTER = (DataKey.of(KEY_ID[:-1] + digit, KEY) for digit in "012")


async def ring_of(beside: DataKey | None = None, kek: KekBackend | None = None) -> FixedRing:
    """Return a ring with a current data key, and another one that it vouches for."""
    ring = FixedRing.with_keys(CURRENT)
    if beside is not None:
        ring.vouch(beside, await (kek or new_kek()).wrap(Binding.of_data_key(beside.id), KEY))
    return ring


def deep_of(ring: FixedRing) -> DeepRotation:
    nobody: Any = None
    return DeepRotation(nobody, keyring(), ring, asyncio.Event())


async def test_one_data_key_is_left_by_a_deep_run_alone() -> None:
    deep = deep_of(await ring_of())
    assert (deep.before, deep.data_key, deep.is_announced, deep.doubtful) == ((), None, False, ())
    assert deep.foresee(deep=False) == ()
    assert deep.foresee(deep=True) == (CURRENT.id,)


async def test_one_that_was_left_is_left_by_any_run_and_no_other() -> None:
    deep = deep_of(await ring_of(BEFORE))
    assert (deep.before, deep.data_key) == ((BEFORE.id,), CURRENT.id)
    assert (deep.is_announced, deep.doubtful) == (False, ())
    assert deep.foresee(deep=False) == deep.foresee(deep=True) == (BEFORE.id,)


async def test_any_run_goes_on_with_one_that_was_announced() -> None:
    deep = deep_of(await ring_of(AFTER))
    assert (deep.before, deep.data_key) == ((), None)
    assert (deep.is_announced, deep.doubtful) == (True, ())
    assert deep.foresee(deep=False) == (CURRENT.id,)


async def test_one_that_was_announced_under_another_kek_is_doubtful() -> None:
    deep = deep_of(await ring_of(AFTER, old_kek()))
    assert not deep.is_announced
    (said,) = deep.doubtful
    assert said.startswith(f"the data key {AFTER.id} was announced under another KEK than the")
    assert said.endswith(f"it is not used: custody kek forget {AFTER.id}")


async def test_nothing_is_foreseen_while_no_data_key_is_open() -> None:
    ring = await ring_of(BEFORE)
    ring.close()
    deep = deep_of(ring)
    assert (deep.before, deep.data_key, deep.is_announced) == ((), None, False)
    assert deep.foresee(deep=True) == ()
