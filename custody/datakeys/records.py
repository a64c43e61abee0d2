"""Records of data keys, as the database has them: nothing of them is believed before it opens."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.datakeys.data_key import DataKey, is_id
from custody.datakeys.errors import DataKeyUnavailable, NoSuchDataKey
from custody.datakeys.record_seal import RecordSeal
from custody.db.queries import query
from custody.db.scope import transaction
from kek_backends.base import KekBackend, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import KekError, Tampered
from kek_backends.keyring import Keyring

_SECONDS = 3.0
# A KMS gives up by itself before; a backend of others may not.
_UNWRAP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Record:
    """What the database says of a data key. Two that are alike hold the same bytes.

    Args:
        id: of the data key.
        seal: by the data key itself, or by the one that vouches for it too.
        is_lost: the owner has said that no KEK opens it any more.
        wraps: the data key under one KEK or several.
    """

    id: str
    seal: str
    is_lost: bool
    wraps: tuple[Wrap, ...]

    def is_of_same_key(self, other: "Record") -> bool:
        """Say whether another record has the same wraps of the same key, whoever vouches for it."""
        said, says = RecordSeal.parse(self.seal), RecordSeal.parse(other.seal)
        is_same = said is not None and says is not None and said.own == says.own
        return is_same and self.wraps == other.wraps


@dataclass(frozen=True, slots=True)
class Opened:
    """A data key, and which KEK has opened it."""

    key: DataKey
    kek_id: str


async def read_records(engine: AsyncEngine) -> tuple[Record, ...]:
    """Return all records, the oldest first.

    Args:
        engine: connections of a runtime role.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    async with transaction(engine, _SECONDS) as connection:
        rows = await connection.fetch(query("read_data_keys"))
    by_key = groupby(rows, key=itemgetter("id", "seal", "is_lost"))
    return tuple(
        Record(
            key_id,
            seal,
            is_lost=is_lost,
            wraps=tuple(_wrap(row) for row in wraps if row["kek_id"] is not None),
        )
        for (key_id, seal, is_lost), wraps in by_key
    )


async def add_record(
    engine: AsyncEngine, key: DataKey, wrap: Wrap, bad: Collection[str]
) -> str | None:
    """Add a data key in one statement, whole or not at all, unless there is one.

    Args:
        engine: connections of a runtime role.
        key: the new one.
        wrap: of the same.
        bad: ids of records that are none of a data key.

    Returns:
        The id of the data key that there is now; None where rows are sealed and no record is good,
        for a new key could not judge them.

    Raises:
        DatabaseError: the database can't be asked now; the key may have been added.
    """
    columns = wrap.kek_id, wrap.wrapped_mk, wrap.wrap_iv
    async with transaction(engine, _SECONDS) as connection:
        found: str | None = await connection.fetchval(
            query("add_data_key"), key.id, key.own_seal, *columns, sorted(bad)
        )
    return found


async def open_record(keyring: Keyring, record: Record) -> Opened:
    """Unwrap a data key, by the first of its wraps that opens; see that it is the record's own.

    Args:
        keyring: the configured KEKs.
        record: which.

    Raises:
        NoSuchDataKey: all its wraps were tried, and none holds a data key of this id.
        DataKeyUnavailable: a KEK that may open it can't be used now, or is not configured.
    """
    if not is_id(record.id) or RecordSeal.parse(record.seal) is None:
        raise NoSuchDataKey("the id or the seal of a record is none of a data key")
    unknown = [
        f"list the KEK of {wrap.kek_id} in CUSTODY_OLD_KEKS, or, if the record is not yours, "
        f"run: custody kek forget {record.id}"
        for wrap in record.wraps
        if keyring.find(wrap.kek_id) is None
    ]
    reasons = []
    for backend, wrap in _by_preference(keyring, record):
        try:
            async with asyncio.timeout(_UNWRAP_SECONDS):
                key = await backend.unwrap(Binding.of_data_key(record.id), wrap)
        except Tampered:
            continue
        except TimeoutError:
            reasons.append(f"{wrap.kek_id}: no answer in time")
            continue
        except KekError as error:
            reasons.append(str(error))
            continue
        opened = DataKey.of(record.id, key)
        # The wrap holds a key for this id; the seal says that it is the one of this record.
        if opened.is_of(record.seal):
            return Opened(opened, wrap.kek_id)
    # Of a KEK that is away alone there is nothing to say of others, such as the second root.
    if reasons := reasons or unknown:
        raise DataKeyUnavailable(f"the data key {record.id} can't be opened: {'; '.join(reasons)}")
    raise NoSuchDataKey(f"the record {record.id} holds no data key of ours")


def does_not_open(record: Record, *kek_ids: str) -> str:
    """Say that KEKs open no data key in a record, and the cure.

    Args:
        record: which.
        kek_ids: of the KEKs; none: there is no wrap of it.
    """
    under = f"the KEK of {', '.join(kek_ids)}" if kek_ids else "any KEK"
    return (
        f"the data key {record.id} does not open under {under}: configure the key that wrapped it, "
        f"or, if the record is not yours, run: custody kek forget {record.id}"
    )


def _by_preference(keyring: Keyring, record: Record) -> list[tuple[KekBackend, Wrap]]:
    """Return the wraps whose KEK is configured: the active one's first, then those in memory."""
    found = [(keyring.find(wrap.kek_id), wrap) for wrap in record.wraps]
    usable = [(backend, wrap) for backend, wrap in found if backend is not None]
    return sorted(usable, key=lambda one: (one[0] is not keyring.active, not one[0].in_process))


def _wrap(row: Any) -> Wrap:
    return Wrap(row["wrapped_key"], row["wrap_iv"], row["format_version"], row["kek_id"])
