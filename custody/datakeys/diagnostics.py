"""What ``custody doctor`` says of the data keys; changes nothing."""

import time
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.datakeys.data_key import made_at, prefix_of
from custody.datakeys.errors import DataKeyUnavailable, NoSuchDataKey
from custody.datakeys.records import Record, does_not_open, open_record, read_records
from custody.datakeys.ring import Ring
from custody.db.queries import query
from custody.db.scope import transaction
from custody.keks.second import VARIABLE
from kek_backends.base import KekBackend, Wrap
from kek_backends.findings import Finding, Verdict
from kek_backends.keyring import Keyring

_PART = "data-key"
# Neither is a cliff (docs/how-to/rotate-data-keys.md says what they are chosen by): what a key that
# leaks is good for grows with both.
MAX_DAYS = 365
MAX_ROWS = 2**32
_DAY_MILLISECONDS = 86_400_000
_SHUT = "does not open it"


async def examine_data_keys(
    engine: AsyncEngine, keyring: Keyring, ring: Ring, second: KekBackend | None = None
) -> list[Finding]:
    """Open the data keys, and say which are not open and why, and what the second root lacks.

    Args:
        engine: connections of a runtime role.
        keyring: the configured KEKs.
        ring: of this process; opens each once, and judges the seals of records from then on.
        second: the KEK of the second root; it opens none of them.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    await ring.load()
    if ring.is_doubled:
        return [Finding(Verdict.FINDING, ring.problem or "", _PART)]
    findings = []
    for record in await read_records(engine):
        findings.append(_finding(record, keyring, ring, second))
        if findings[-1].verdict is Verdict.OK:
            findings[-1:] = await _examine_wraps(record, findings[-1].message, keyring, second)
        if second is not None and ring.find(prefix_of(record.id)) is not None:
            findings += _without_second(record, second)
    if not findings:
        message = "there is no data key; the next boot makes it, unless rows are sealed already"
        return [Finding(Verdict.UNSEEN, message, _PART)]
    return findings + await _examine_age(engine, ring)


async def _examine_age(engine: AsyncEngine, ring: Ring) -> list[Finding]:
    """Say whether the current data key is due for a deep rotation, by age or by what it seals."""
    if (current := ring.current) is None:
        return []
    found = []
    if (days := _days_old(current.id)) > MAX_DAYS:
        found.append(f"the data key {current.id} is {days} days old, more than {MAX_DAYS}")
    async with transaction(engine) as connection:
        rows = await connection.fetchval(query("estimate_rows"))
    if rows > MAX_ROWS:
        found.append(f"about {rows} rows are under the data key {current.id}, more than {MAX_ROWS}")
    cure = "custody rewrap run --deep"
    return [
        Finding(Verdict.FINDING, f"{one}; give it a successor: {cure}", _PART, cure)
        for one in found
    ]


def _days_old(key_id: str) -> int:
    """Return the age of a data key: its id is bound into its wraps, the record's time is not."""
    return (time.time_ns() // 1_000_000 - made_at(key_id)) // _DAY_MILLISECONDS


async def _examine_wraps(
    record: Record, said: str, keyring: Keyring, second: KekBackend | None
) -> list[Finding]:
    """Say which KEKs open a data key that is open, and which do not: each of its wraps is tried."""
    states = {wrap.kek_id: await _state(record, wrap, keyring, second) for wrap in record.wraps}
    days = _days_old(record.id)
    under = ", ".join(f"{kek_id} ({state})" for kek_id, state in sorted(states.items()))
    message = f"{said}; {days} day{'' if days == 1 else 's'} old; wrapped under {under}"
    shut = sorted(kek_id for kek_id, state in states.items() if state == _SHUT)
    return [Finding(Verdict.OK, message, _PART)] + [
        Finding(
            Verdict.WARNING,
            f"the wrap of the data key {record.id} under {kek_id} does not open: make another",
            _PART,
            "custody rewrap run",
        )
        for kek_id in shut
    ]


async def _state(record: Record, wrap: Wrap, keyring: Keyring, second: KekBackend | None) -> str:
    is_second = second is not None and second.holds(wrap.kek_id)
    keks = Keyring(second) if second is not None and is_second else keyring
    if keks.find(wrap.kek_id) is None:
        return "not configured here"
    try:
        await open_record(keks, replace(record, wraps=(wrap,)))
    except NoSuchDataKey:
        return _SHUT
    except DataKeyUnavailable:
        return "no answer"
    return "the second root opens it" if is_second else "opens it"


def _without_second(record: Record, second: KekBackend) -> list[Finding]:
    """Say that a data key has no wrap under the second root, as far as its kek_id is known."""
    if second.kek_id is None or any(wrap.kek_id == second.kek_id for wrap in record.wraps):
        return []
    uri = second.uri.text
    cure = "custody rewrap run"
    message = f"the data key {record.id} has no wrap under {VARIABLE}, {uri}: {cure}"
    return [Finding(Verdict.FINDING, message, _PART, cure)]


def _finding(record: Record, keyring: Keyring, ring: Ring, second: KekBackend | None) -> Finding:
    if ring.find(prefix_of(record.id)) is not None:
        return Finding(Verdict.OK, f"the data key {record.id} opens", _PART)
    reason = ring.reason(record.id)
    if reason is None:
        message = does_not_open(record, *sorted(wrap.kek_id for wrap in record.wraps))
        return Finding(Verdict.FINDING, message, _PART)
    # Of a KMS that does not answer, its own part says the same.
    waits = not record.is_lost and all(
        keyring.find(wrap.kek_id) or (second is not None and second.holds(wrap.kek_id))
        for wrap in record.wraps
    )
    return Finding(Verdict.DOWN if waits else Verdict.FINDING, reason, _PART)
