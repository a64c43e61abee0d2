"""A deep rotation: a new data key, every row brought to it, and the one before is gone."""

from typing import Any

import pytest

from custody.datakeys.data_key import DataKey
from custody.datakeys.records import open_record, read_records
from custody.rewrap.options import Options
from kek_backends.base import KekBackend
from kek_backends.keyring import Keyring
from tests.datakeys import KEY, KEY_ID
from tests.db.connecting import engine_of
from tests.rewrap.kit import (
    fill,
    go_zk,
    keyring,
    new_kek,
    opened,
    rewrap_engine,
    stamps,
    worker_of,
)
from tests.sealed_rows import READ, seal_of
from tests.servers import Database

pytestmark = pytest.mark.usefixtures("short_waits")

KEYS = "SELECT id, seal, ended FROM auth.encryption_data_keys ORDER BY id"
BEFORE = DataKey.of(KEY_ID, KEY)


async def data_key(database: Database, kek: KekBackend) -> DataKey:
    """Return the only data key, opened by a KEK alone."""
    async with engine_of(database.url("custody_app")) as engine:
        (record,) = await read_records(engine)
    return (await open_record(Keyring(kek), record)).key


async def users(database: Database) -> list[str]:
    rows = await database.fetch("SELECT user_id FROM auth.encryption_vaults ORDER BY user_id")
    return [row["user_id"] for row in rows]


async def sealed_with(database: Database, *keys: DataKey) -> dict[str, int]:
    """Say for how many rows the seal of each data key holds."""
    rows = await database.fetch(READ, await users(database))
    return {key.id: sum(row["seal"] == seal_of(key, row) for row in rows) for key in keys}


async def deep(database: Database, keks: Keyring | None = None, **options: Any) -> Any:
    """Run to the end; return the record, and what is left."""
    async with rewrap_engine(database) as engine:
        worker = worker_of(engine, keks or keyring(), Options(deep=True, **options))
        run = await worker.run()
        return run, await worker.left(run)


async def test_every_row_comes_to_a_new_data_key(database: Database) -> None:
    ledger = await fill(database, 30)
    zoe = "user-000007"
    await go_zk(database, zoe)
    run, left = await deep(database, batch=7)
    assert (run.state, run.done, run.total, run.failed, bool(left)) == ("done", 30, 30, 0, False)
    key = await data_key(database, new_kek())
    assert run.data_key == key.id > KEY_ID
    assert await sealed_with(database, key) == {key.id: 30}
    assert await stamps(database) == {("env-v2", 3): 29}
    assert await opened(database, Keyring(new_kek())) == {
        user: one for user, one in ledger.items() if user != zoe
    }
    ((there, seal, ended),) = await database.fetch(KEYS)
    assert (there, seal, ended) == (key.id, key.own_seal, [KEY_ID])
    assert await database.value("SELECT count(*) FROM auth.encryption_keks WHERE seal IS NULL") == 0
    # And again, with the KEK as it is: no wrap is touched.
    before = await database.fetch("SELECT wrapped_mk FROM auth.encryption_vaults ORDER BY user_id")
    run, left = await deep(database, Keyring(new_kek()))
    assert (run.state, run.done, bool(left)) == ("done", 30, False)
    assert (
        await database.fetch("SELECT wrapped_mk FROM auth.encryption_vaults ORDER BY user_id")
        == before
    )
    after = await data_key(database, new_kek())
    assert after.id > key.id
    assert await sealed_with(database, after) == {after.id: 30}
