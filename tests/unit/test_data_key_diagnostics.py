"""What ``custody doctor`` says of data keys, word for word: an operator acts by it alone."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from custody.datakeys import diagnostics
from custody.datakeys.data_key import DataKey, new_id
from custody.datakeys.diagnostics import MAX_ROWS, examine_data_keys
from custody.datakeys.records import Record
from kek_backends.binding import Binding
from kek_backends.env import EnvKek
from kek_backends.errors import Transient
from kek_backends.findings import Verdict
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri
from kek_backends.wrap import Wrap
from tests.datakeys import KEY, FixedRing, record_of

NOW_ID = new_id()
DAYS = 86_400_000


def kek_of(name: str) -> EnvKek:
    uri = KekUri.parse(f"env:{name.upper()}")
    return EnvKek(uri=uri, kek_id=name, key=name.encode().ljust(32), development=False)


ONE, OTHER, SECOND = kek_of("one"), kek_of("other"), kek_of("second")


class Silent(EnvKek):
    """A KMS that gives no answer."""

    async def _unwrap(self, _binding: Binding, _wrap: Wrap) -> bytes:
        raise Transient("no answer")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says what is found, of records and a number of rows."""

    async def examine(
        ring: FixedRing, *records: Record, rows: int = 0, second: Any = None, keks: Any = (ONE,)
    ) -> list[tuple[Verdict, str, str]]:
        async def read(_engine: Any) -> tuple[Record, ...]:
            return records

        @asynccontextmanager
        async def transaction(_engine: Any) -> AsyncIterator[Any]:
            yield Rows()

        class Rows:
            async def fetchval(self, statement: str) -> int:
                assert "reltuples" in statement
                return rows

        monkeypatch.setattr(diagnostics, "read_records", read)
        monkeypatch.setattr(diagnostics, "transaction", transaction)
        nobody: Any = None
        found = await examine_data_keys(nobody, Keyring(keks[0], keks[1:]), ring, second)
        assert {one.part for one in found} == {"data-key"}
        return [(one.verdict, one.message, one.cure or "") for one in found]

    return examine


def days_ago(days: int) -> str:
    """Return the id of a data key that was made so long ago."""
    at = time.time_ns() // 1_000_000 - days * DAYS - 1000
    return f"dk-{at:012x}{NOW_ID[15:]}"


async def test_none(said: Any) -> None:
    nothing = "there is no data key; the next boot makes it, unless rows are sealed already"
    assert await said(FixedRing.with_keys()) == [(Verdict.UNSEEN, nothing, "")]


@pytest.mark.parametrize(("days", "old"), [(0, "0 days"), (1, "1 day"), (365, "365 days")])
async def test_one_that_is_well(said: Any, days: int, old: str) -> None:
    key_id = days_ago(days)
    record = await record_of(ONE, key_id=key_id)
    good = f"the data key {key_id} opens; {old} old; wrapped under one (opens it)"
    ring = FixedRing.of(key_id=key_id)
    assert await said(ring, record, rows=MAX_ROWS) == [(Verdict.OK, good, "")]


async def test_each_of_its_wraps(said: Any) -> None:
    key_id = days_ago(2)
    record = await record_of(ONE, OTHER, SECOND, key_id=key_id)
    (shut,) = (await record_of(kek_of("shut"), key_id=key_id, key=bytes(32))).wraps
    uri = KekUri.parse("env:SILENT")
    silent = Silent(uri=uri, kek_id="silent", key=b"s" * 32, development=False)
    (waits,) = (await record_of(silent, key_id=key_id)).wraps
    wraps = (*record.wraps, shut, waits)
    record = replace(record, wraps=wraps)
    ring, keks = FixedRing.of(key_id=key_id), (ONE, kek_of("shut"), silent)
    under = (
        "one (opens it), other (not configured here), second (the second root opens it),"
        " shut (does not open it), silent (no answer)"
    )
    good = f"the data key {key_id} opens; 2 days old; wrapped under {under}"
    shut_says = f"the wrap of the data key {key_id} under shut does not open: make another"
    assert await said(ring, record, second=SECOND, keks=keks) == [
        (Verdict.OK, good, ""),
        (Verdict.WARNING, shut_says, "custody rewrap run"),
    ]


async def test_without_a_wrap_under_the_second_root(said: Any) -> None:
    key_id = days_ago(3)
    record, ring = await record_of(ONE, key_id=key_id), FixedRing.of(key_id=key_id)
    *_, lacks = await said(ring, record, second=SECOND)
    uri = "CUSTODY_SECOND_KEK, env:SECOND"
    message = f"the data key {key_id} has no wrap under {uri}: custody rewrap run"
    assert lacks == (Verdict.FINDING, message, "custody rewrap run")
    # One that is not open can't be wrapped anew.
    assert len(await said(FixedRing.with_keys(), record, second=SECOND)) == 1


async def test_one_that_is_due(said: Any) -> None:
    key_id, cure = days_ago(366), "custody rewrap run --deep"
    record, ring = await record_of(ONE, key_id=key_id), FixedRing.of(key_id=key_id)
    _, *due = await said(ring, record, rows=MAX_ROWS + 1)
    successor = f"give it a successor: {cure}"
    old = f"the data key {key_id} is 366 days old, more than 365; {successor}"
    rows = f"about 4294967297 rows are under the data key {key_id}, more than 4294967296"
    assert due == [
        (Verdict.FINDING, old, cure),
        (Verdict.FINDING, f"{rows}; {successor}", cure),
    ]


async def test_one_that_is_not_open(said: Any) -> None:
    """It waits for a KEK that is configured, the second root too; or nobody here has its KEK."""
    reason = f"the data key {NOW_ID}: closed by a test"
    record = await record_of(ONE, SECOND, key_id=NOW_ID)

    async def verdict(record: Record, second: Any = None) -> Verdict:
        ring = FixedRing.of(key_id=NOW_ID)
        ring.take(record)
        ring.close()
        ((found, message, _),) = await said(ring, record, second=second)
        assert message == reason
        return Verdict(found)

    assert await verdict(record, SECOND) is Verdict.DOWN
    assert await verdict(record) is Verdict.FINDING
    assert await verdict(await record_of(ONE, key_id=NOW_ID)) is Verdict.DOWN
    lost = await record_of(ONE, key_id=NOW_ID, is_lost=True)
    assert await verdict(lost) is Verdict.FINDING


async def test_one_that_is_no_data_key(said: Any) -> None:
    record = await record_of(OTHER, ONE, key_id=NOW_ID)
    key = DataKey.of(days_ago(9), KEY)
    (found, *_) = await said(FixedRing.with_keys(key), record)
    assert found[0] is Verdict.FINDING
    assert NOW_ID in found[1]
    assert found[1].index("one") < found[1].index("other")
