"""Rows whose seal holds, made without a daemon: by the data key that the database has or gets."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from custody.datakeys.data_key import DataKey
from custody.datakeys.records import open_record, read_records
from custody.vault.sealed_state import SealedState, digest_of
from kek_backends.base import KekBackend, Wrap
from kek_backends.binding import Binding
from kek_backends.keyring import Keyring
from tests.datakeys import KEY, KEY_ID, record_of
from tests.db.connecting import engine_of
from tests.servers import Database

ADD = "SELECT auth.custody_add_data_key($1, $2, $3, $4, $5, '{}')"
PUT = "SELECT auth.custody_put_data_key_wrap($1, $2, $3, $4, NULL)"
# All of a row, and the time as it is sealed.
READ = (
    "SELECT *, extract(epoch FROM recovery_set_at)::text AS set_at"
    " FROM auth.encryption_vaults WHERE user_id = ANY ($1::text[])"
)


async def data_key_of(database: Database, kek: KekBackend) -> DataKey:
    """Return the data key of a database; make one where there is none.

    Args:
        database: a migrated one.
        kek: opens the data key that a daemon has made; one that was made here needs none for that.
    """
    async with engine_of(database.url("custody_app")) as engine:
        records = await read_records(engine)
    if not records:
        return await _make(database, kek)
    (record,) = records
    if record.id == KEY_ID:
        return DataKey.of(KEY_ID, KEY)
    return (await open_record(Keyring(kek), record)).key


async def _make(database: Database, kek: KekBackend) -> DataKey:
    record = await record_of(kek)
    (wrap,) = record.wraps
    columns = wrap.kek_id, wrap.wrapped_mk, wrap.wrap_iv
    assert await database.value(ADD, record.id, record.seal, *columns) == KEY_ID
    return DataKey.of(KEY_ID, KEY)


async def share_data_key(database: Database, holder: KekBackend, other: KekBackend) -> None:
    """Wrap the data key of a database under one more KEK, as a run to that would.

    Args:
        database: where it is.
        holder: opens it.
        other: is to open it, too.
    """
    row = await database.fetch(
        "SELECT * FROM auth.encryption_data_key_wraps WHERE kek_id = $1", holder.kek_id
    )
    ((key_id, kek_id, *wrap),) = [tuple(one)[:5] for one in row]
    binding = Binding.of_data_key(key_id)
    key = await holder.unwrap(binding, Wrap(wrap[0], wrap[1], wrap[2], kek_id))
    made = await other.wrap(binding, key)
    columns = made.kek_id, made.wrapped_mk, made.wrap_iv
    assert await database.value(PUT, key_id, *columns)


async def take_data_key(database: Database, kek_id: str) -> None:
    """Take the wrap of a data key under one KEK away."""
    await database.execute("DELETE FROM auth.encryption_data_key_wraps WHERE kek_id = $1", kek_id)


def seal_of(key: DataKey, row: Mapping[str, Any]) -> str:
    """Return the seal that a row should have.

    Args:
        key: the data key.
        row: its columns, as READ reads them.
    """
    return state_of(row).seal(key, row["user_id"])


def state_of(row: Mapping[str, Any]) -> SealedState:
    """Return what is sealed of a row.

    Args:
        row: as for :func:`seal_of`.
    """
    wrapped, iv = row["recovery_wrapped_mk"], row["recovery_iv"]
    previous = row["previous_wrapped_mk"]
    return SealedState(
        generation=row["generation"],
        serial=row["seal_serial"],
        zero_knowledge=row["zero_knowledge"],
        key_check=row["key_check"],
        recovery_digest=None if wrapped is None else digest_of(wrapped, iv),
        recovery_format_version=row["recovery_format_version"],
        recovery_set_at=row["set_at"],
        has_wrap=row["wrapped_mk"] is not None,
        previous_generation=row["previous_generation"],
        previous_digest=None if previous is None else digest_of(previous, row["previous_wrap_iv"]),
    )


async def reseal(database: Database, key: DataKey, *users: str) -> None:
    """Seal the rows of users as they are now, whoever has changed them.

    Args:
        database: where they are.
        key: its data key.
        users: their ids.
    """
    async with past_triggers(database) as superuser:
        await reseal_by(superuser, key, *users)


async def reseal_by(superuser: "asyncpg.Connection[Any]", key: DataKey, *users: str) -> None:
    """Do the same within a superuser's transaction."""
    for row in await superuser.fetch(READ, users):
        await superuser.execute(
            "UPDATE auth.encryption_vaults SET seal = $2 WHERE user_id = $1",
            *(row["user_id"], seal_of(key, row)),
        )


@asynccontextmanager
async def past_triggers(database: Database) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """Connect as one who may write whatever he likes: row-level security and triggers are off.

    Only the CHECKs hold, and nothing is counted, row_version neither.
    """
    connection = await asyncpg.connect(database.url("postgres"))
    try:
        await connection.execute("SET session_replication_role = replica")
        yield connection
    finally:
        await connection.close()
