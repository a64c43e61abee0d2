"""The registry of KEKs as an operator sees it: what is recorded, how many rows, and retirement."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.errors import Busy
from custody.db.queries import query
from custody.db.scope import transaction

UNREGISTERED = "unregistered"

_TIMEOUT_SECONDS = 10.0
# Reads the whole table: about 0.2 s for a million rows.
_COUNT_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class RegisteredKek:
    """What the database knows of a kek_id.

    Args:
        kek_id: the stamp on rows.
        state: active, decrypt-only or retired; unregistered where only rows name it.
        backend: the scheme of its URI; None until a daemon has run with it.
        locator: its URI; None likewise.
        recorded_at: when it was first seen.
        activated_at: when it last became the active one.
        retired_at: since when nothing can be wrapped under it.
        retirement: what was seen then: rows, instances, the last run.
    """

    kek_id: str
    state: str
    backend: str | None = None
    locator: str | None = None
    recorded_at: datetime | None = None
    activated_at: datetime | None = None
    retired_at: datetime | None = None
    retirement: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RowCount:
    """How many rows have a wrap under a KEK.

    Args:
        wraps: all of them.
        format_1: of these, not bound to their user.
        quarantined: of these, set aside because their wrap does not open.
        old_format: of these, in a format that is not written any more.
        legacy: of these, not sealed.
    """

    wraps: int
    format_1: int
    quarantined: int
    old_format: int = 0
    legacy: int = 0


NO_ROWS = RowCount(0, 0, 0)


@dataclass(frozen=True, slots=True)
class RecordedDataKey:
    """What the database knows of a data key, of which nothing is believed here.

    Args:
        id: ``dk-`` and 32 hexadecimal digits.
        kek_ids: of the KEKs that it is wrapped under.
        created_at: when it was recorded.
        lost_at: since when no KEK that opens it exists, by the owner's word; None else.
    """

    id: str
    kek_ids: tuple[str, ...]
    created_at: datetime
    lost_at: datetime | None


class Retirement(StrEnum):
    """What became of the wish to retire a KEK."""

    RETIRED = "retired"
    ALREADY_RETIRED = "already-retired"
    ACTIVE = "active"
    IN_USE = "in-use"
    DATA_KEYS = "data-keys"
    WRITTEN = "written"
    DATA_KEY = "data-key"
    UNKNOWN = "unknown"


async def list_keks(engine: AsyncEngine) -> tuple[RegisteredKek, ...]:
    """Return the registered KEKs, the oldest first, and then those that only wraps name.

    Data keys have records of their own; see :func:`list_data_keys`.

    Args:
        engine: connections of a runtime role.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    async with transaction(engine, _TIMEOUT_SECONDS) as connection:
        recorded = await connection.fetch(query("list_keks"))
        in_use = [row["kek_id"] for row in await connection.fetch(query("list_keks_in_use"))]
        data_keys = [row["id"] for row in await connection.fetch(query("list_data_keys"))]
    known = {row["kek_id"] for row in recorded}.union(data_keys)
    return (
        *(
            RegisteredKek(
                kek_id=row["kek_id"],
                state=row["state"],
                backend=row["backend"],
                locator=row["locator"],
                recorded_at=row["recorded_at"],
                activated_at=row["activated_at"],
                retired_at=row["retired_at"],
                retirement=row["retirement"] and json.loads(row["retirement"]),
            )
            for row in recorded
        ),
        *(RegisteredKek(kek_id, UNREGISTERED) for kek_id in in_use if kek_id not in known),
    )


async def count_rows(engine: AsyncEngine) -> dict[str, RowCount]:
    """Count the rows with a wrap under each kek_id.

    Args:
        engine: connections of the role custody_rewrap; another one would not see all rows.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    async with transaction(engine, _COUNT_TIMEOUT_SECONDS) as connection:
        rows = await connection.fetch(query("count_rows_by_kek"), timeout=_COUNT_TIMEOUT_SECONDS)
    return {
        row["kek_id"]: RowCount(
            row["wraps"], row["format_1"], row["quarantined"], row["old_format"], row["legacy"]
        )
        for row in rows
    }


async def list_data_keys(engine: AsyncEngine) -> tuple[RecordedDataKey, ...]:
    """Return the data keys that are on record, the oldest first.

    Args:
        engine: connections of a runtime role.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    async with transaction(engine, _TIMEOUT_SECONDS) as connection:
        rows = await connection.fetch(query("list_data_keys"))
    return tuple(
        RecordedDataKey(
            id=key_id,
            kek_ids=tuple(row["kek_id"] for row in wraps if row["kek_id"] is not None),
            created_at=wraps[0]["created_at"],
            lost_at=wraps[0]["lost_at"],
        )
        for key_id, wraps in (
            (key_id, list(group)) for key_id, group in groupby(rows, key=itemgetter("id"))
        )
    )


async def retire(engine: AsyncEngine, kek_id: str) -> Retirement:
    """Retire a KEK for good, unless it is the active one or something is wrapped under it.

    Args:
        engine: connections of the role custody_rewrap.
        kek_id: which.

    Raises:
        Busy: a transaction that writes under it has not ended yet.
        OutcomeUnknown: it may be retired; try again to know.
        DatabaseError: the database can't be asked now.
    """
    try:
        # It is READ COMMITTED whatever the server's default is: the database retires in no other.
        async with transaction(engine, _TIMEOUT_SECONDS) as connection:
            outcome = await connection.fetchval(query("retire_kek"), kek_id)
    except Busy:
        raise Busy(
            f"nothing was done: something is just being written under {kek_id}; try again"
        ) from None
    return Retirement(outcome)
