"""Which rows are believed where their data key is not open: a recovery wrap, and nothing else."""

import asyncio
from typing import Any

import pytest

from custody.datakeys.data_key import DataKey
from custody.datakeys.records import Record
from custody.deadline import Deadline
from custody.vault.errors import KekUnavailable, RowTampered
from custody.vault.model import Caller, Trust
from custody.vault.sealed_state import SealedState, digest_of
from custody.vault.seals import Seals
from tests.datakeys import KEY, KEY_ID, FixedRing
from tests.states import IV, WRAPPED

OTHER = DataKey.of("dk-01932e00000070008000000000000002", bytes(32))


class Silence:
    """Alarms that nobody hears."""

    def row_tampered(self, _user_id: str, _reason: str) -> None: ...
    def legacy_row_refused(self) -> None: ...


def zk_row() -> dict[str, Any]:
    state = SealedState(
        generation=1,
        serial=2,
        zero_knowledge=True,
        key_check="c" * 64,
        recovery_digest=digest_of(WRAPPED, IV),
        recovery_format_version=1,
        recovery_set_at="1764300000.000000",
        has_wrap=False,
    )
    return {
        "wrapped_mk": None,
        "wrap_iv": None,
        "format_version": 3,
        "kek_id": "env-v1",
        "recovery_wrapped_mk": WRAPPED,
        "recovery_iv": IV,
        "recovery_format_version": 1,
        "recovery_set_at": "1764300000.000000",
        "zero_knowledge": True,
        "generation": 1,
        "key_check": "c" * 64,
        "previous_generation": None,
        "previous_wrapped_mk": None,
        "previous_wrap_iv": None,
        "seal_serial": 2,
        "row_version": 7,
        "seal": state.seal(DataKey.of(KEY_ID, KEY), "alice"),
    }


class HangingRing(FixedRing):
    """A ring that is just asking a KMS that does not answer."""

    async def get(self, _prefix: str) -> DataKey:
        await asyncio.Event().wait()
        raise AssertionError


async def judged(ring: FixedRing, row: dict[str, Any], seconds: float = 10) -> Trust:
    alice = Caller("alice", "event", None, None, Deadline.after(seconds))
    return (await Seals(ring, legacy=False, alarms=Silence()).judge(alice, row)).trust


async def test_its_seal_is_judged_while_its_data_key_is_open() -> None:
    assert await judged(FixedRing.of(), zk_row()) is Trust.SEALED
    with pytest.raises(RowTampered):
        await judged(FixedRing.of(), zk_row() | {"generation": 2})


async def test_a_recovery_wrap_is_shown_while_no_data_key_is_open() -> None:
    ring = FixedRing.of()
    ring.close()
    assert await judged(ring, zk_row()) is Trust.UNVERIFIED


async def test_nothing_is_shown_while_another_data_key_is_open() -> None:
    """Who can make one of them unavailable would turn the judgement off for its rows."""
    ring = FixedRing.of()
    ring.close()
    ring.add(OTHER)
    with pytest.raises(KekUnavailable):
        await judged(ring, zk_row())


async def test_a_data_key_that_is_lost_has_its_recovery_wraps_shown() -> None:
    ring = FixedRing.of(bytes(32), OTHER.id)
    lost = Record(KEY_ID, DataKey.of(KEY_ID, KEY).own_seal, is_lost=True, wraps=())
    ring.take(lost)
    assert await judged(ring, zk_row()) is Trust.UNVERIFIED


async def test_nobody_waits_for_a_data_key_beyond_the_deadline() -> None:
    ring = HangingRing.of(bytes(32), OTHER.id)
    with pytest.raises(KekUnavailable):
        await judged(ring, zk_row(), seconds=1.1)


@pytest.mark.parametrize(
    "change",
    [
        {"zero_knowledge": False},
        {"recovery_wrapped_mk": None, "recovery_iv": None},
        {"recovery_iv": "short"},
        {"recovery_wrapped_mk": "ключ"},
    ],
    ids=str,
)
async def test_unjudged_nothing_else_is_shown(change: dict[str, Any]) -> None:
    ring = FixedRing.of()
    ring.close()
    with pytest.raises(KekUnavailable):
        await judged(ring, zk_row() | change)


@pytest.mark.parametrize("seal", ["", "x", "1.dk-", "2" + "x" * 101, "1." + KEY_ID, "ключ" * 30])
async def test_a_seal_that_is_none_is_tampering_also_then(seal: str) -> None:
    ring = FixedRing.of()
    ring.close()
    with pytest.raises(RowTampered):
        await judged(ring, zk_row() | {"seal": seal})
