"""Data keys come to the target with a run, before its rows: then the KEK they left can go."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from custody.datakeys.envelope import UserKeyring
from custody.datakeys.records import open_record, read_records
from custody.datakeys.ring import Ring
from custody.db.errors import OnlyThisRequest
from custody.keks import instances
from custody.keks.instances import Instance
from custody.ops.metrics import Metrics
from custody.rewrap.background import BackgroundRewrap
from custody.rewrap.backoff import NotFinished
from custody.rewrap.batch import WrongWrap
from custody.rewrap.data_keys import DataKeyMove
from custody.rewrap.options import Options
from custody.rewrap.target import Blocked
from custody.rewrap.worker import RewrapRun
from kek_backends.base import Wrap
from kek_backends.binding import Binding, Purpose
from kek_backends.keyring import Keyring
from kek_backends.loader import load_keyring
from kek_backends.uri import KekUri
from tests.bao_server import Bao
from tests.datakeys import KEY, KEY_ID
from tests.db.command import custody
from tests.db.connecting import engine_of
from tests.db.kek_registry import retire
from tests.moto_server import Moto
from tests.rewrap.kit import (
    NEW,
    NEW_KEY,
    OLD,
    Cheating,
    CountingKek,
    Inside,
    environ_of,
    fill,
    keyring,
    new_kek,
    old_kek,
    opened,
    rewrap,
    rewrap_engine,
    rows_of,
    worker_of,
)
from tests.sealed_rows import past_triggers
from tests.servers import Database

pytestmark = pytest.mark.usefixtures("short_waits")

WRAPS = (
    "SELECT data_key_id, kek_id, wrapped_key FROM auth.encryption_data_key_wraps"
    " ORDER BY data_key_id, kek_id"
)
PLANT = (
    "INSERT INTO auth.encryption_data_key_wraps"
    " (data_key_id, kek_id, wrapped_key, wrap_iv, format_version) VALUES ($1, $2, $3, '', 3)"
)
PUT = "INSERT INTO auth.encryption_data_key_wraps VALUES ($1, $2, $3, $4, 3)"
OTHER_ID = "dk-01932e00000070008000000000000009"


class Enveloped(CountingKek):
    """It wraps data keys alone; they wrap users' keys."""

    @property
    def uri(self) -> KekUri:
        return KekUri.parse(f"{NEW}&mode=envelope")

    def __init__(self) -> None:
        super().__init__("env-v2", NEW_KEY)


class Overtaken(CountingKek):
    """Another process is quicker with the first wrap of the data key."""

    def __init__(self, database: Database) -> None:
        super().__init__("env-v2", NEW_KEY)
        self._database = database
        self.made = 0
        self.by_the_other = ""

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        if binding.purpose is Purpose.DATA_KEY:
            self.made += 1
            if not self.by_the_other:
                other = await super()._wrap(binding, key)
                self.by_the_other = other.wrapped_mk
                columns = binding.subject, "env-v2", other.wrapped_mk, other.wrap_iv
                await self._database.execute(PUT, *columns)
        return await super()._wrap(binding, key)


async def under(database: Database) -> list[tuple[str, str]]:
    """Return which data key is wrapped under which KEK."""
    return [(row["data_key_id"], row["kek_id"]) for row in await database.fetch(WRAPS)]


async def opens(database: Database, kek: CountingKek) -> bool:
    """Say whether a KEK alone opens the data key that rows are sealed with."""
    async with engine_of(database.url("custody_app")) as engine:
        record = next(one for one in await read_records(engine) if one.id == KEY_ID)
    found = await open_record(Keyring(kek), record)
    return found.key.id == KEY_ID


async def live(database: Database, **changes: Any) -> None:
    """Let a daemon say what it reads and writes."""
    said = {
        "writes_uri": NEW,
        "writes_kek_id": "env-v2",
        "active_kek_id": "env-v2",
        "reads": (NEW, "env-v2", OLD, "env-v1"),
    }
    async with engine_of(database.url("custody_app")) as engine:
        await instances.record(engine, Instance(id="i1", host="far", process=7, **said | changes))


async def test_it_moves_and_the_old_kek_is_retired(database: Database) -> None:
    ledger = await fill(database, 10)
    assert await under(database) == [(KEY_ID, "env-v1")]
    assert await retire(database, "env-v1") == "in-use"
    async with rewrap_engine(database) as engine:
        worker = worker_of(engine, keyring(), Options())
        assert (await worker.run()).state == "done"
    assert worker.moved_data_keys == (KEY_ID,)
    assert await under(database) == [(KEY_ID, "env-v2")]
    assert await opens(database, new_kek())
    assert await retire(database, "env-v1") == "retired"
    assert await opened(database, Keyring(new_kek())) == ledger
    # All is as it should be; nothing is wrapped twice.
    before = await database.fetch(WRAPS)
    await rewrap(database, Keyring(new_kek()))
    assert await database.fetch(WRAPS) == before


async def test_data_keys_come_before_the_rows(database: Database) -> None:
    await fill(database, 2)
    seen = []

    async def look(_user: str) -> None:
        seen.append(await under(database))

    await rewrap(database, Keyring(new_kek(look), [old_kek()]))
    assert seen == [[(KEY_ID, "env-v2")]] * 2


async def test_it_moves_where_there_is_no_row(database: Database) -> None:
    await fill(database, 0)
    run = await rewrap(database, keyring())
    assert (run.state, run.total) == ("done", 0)
    assert await under(database) == [(KEY_ID, "env-v2")]


async def test_a_run_makes_the_first_one(database: Database) -> None:
    run = await rewrap(database, keyring())
    assert (run.state, run.total) == ("done", 0)
    ((_, kek_id),) = await under(database)
    assert kek_id == "env-v2"


async def test_junk_under_the_target_is_replaced(database: Database) -> None:
    await fill(database, 1)
    await database.execute(PLANT, KEY_ID, "env-v2", "junk")
    await rewrap(database, keyring())
    assert await under(database) == [(KEY_ID, "env-v2")]
    assert await opens(database, new_kek())


async def test_another_key_under_the_target_is_replaced(database: Database) -> None:
    """Whoever may encrypt under the KEK has put it there: it opens, and is not this data key."""
    await fill(database, 1)
    other = await new_kek().wrap(Binding.of_data_key(KEY_ID), bytes(32))
    await database.execute(
        "INSERT INTO auth.encryption_data_key_wraps VALUES ($1, 'env-v2', $2, $3, 3)",
        *(KEY_ID, other.wrapped_mk, other.wrap_iv),
    )
    await rewrap(database, keyring())
    assert await opens(database, new_kek())


async def test_a_wrap_that_opens_is_left_and_the_others_go(database: Database) -> None:
    """As a run leaves it that was killed between the two."""
    await fill(database, 1)
    made = await new_kek().wrap(Binding.of_data_key(KEY_ID), KEY)
    await database.execute(
        "INSERT INTO auth.encryption_data_key_wraps VALUES ($1, 'env-v2', $2, $3, 3)",
        *(KEY_ID, made.wrapped_mk, made.wrap_iv),
    )
    run = await rewrap(database, keyring())
    assert run.state == "done"
    (left,) = await database.fetch(WRAPS)
    assert tuple(left) == (KEY_ID, "env-v2", made.wrapped_mk)


async def test_nothing_is_dropped_that_a_live_daemon_needs(database: Database) -> None:
    """It was started after the run had looked who lives: its KEK is the old one alone."""
    await fill(database, 3)

    class Started(CountingKek):
        async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
            if binding.purpose is Purpose.DATA_KEY:
                await live(database, writes_uri=OLD, writes_kek_id="env-v1", reads=(OLD, "env-v1"))
            return await super()._wrap(binding, key)

    before = await rows_of(database)
    with pytest.raises(Blocked, match="can't read env:ENV-V2"):
        await rewrap(database, Keyring(Started("env-v2", NEW_KEY), [old_kek()]))
    assert await under(database) == [(KEY_ID, "env-v1"), (KEY_ID, "env-v2")]
    assert await rows_of(database) == before
    await live(database)
    await rewrap(database, keyring())
    assert await under(database) == [(KEY_ID, "env-v2")]


async def test_who_was_slower_leaves_what_the_other_has_made(database: Database) -> None:
    await fill(database, 1)
    kek = Overtaken(database)
    async with rewrap_engine(database) as engine:
        worker = worker_of(engine, Keyring(kek, [old_kek()]), Options())
        assert (await worker.run()).state == "done"
    assert (kek.made, worker.moved_data_keys) == (1, ())
    assert [row["wrapped_key"] for row in await database.fetch(WRAPS)] == [kek.by_the_other]
    assert await opens(database, new_kek())


async def test_no_row_is_wrapped_under_one_that_a_live_daemon_has_not_opened(
    database: Database,
) -> None:
    await fill(database, 2)
    before, kek = await rows_of(database), Enveloped()
    said = {"writes_uri": kek.uri.text, "writes_kek_id": KEY_ID, "reads": (NEW, "env-v2", OLD)}
    await live(database, **said)
    cure = "its /readyz says why, or it is of a release before envelope mode: upgrade it first$"
    async with rewrap_engine(database) as engine:
        ring = Ring(engine, keks := Keyring(kek, [old_kek()]), ttl=3600, max_age=86_400)
        worker = RewrapRun(engine, UserKeyring(keks, ring), ring, Options())
        with pytest.raises(Blocked, match=rf"has not opened the data key {KEY_ID}: .*{cure}"):
            await worker.run()
        assert await rows_of(database) == before
        await live(database, **said | {"reads": (NEW, "env-v2", OLD, KEY_ID)})
        assert (await worker.run()).done == 2
    assert {row["kek_id"] for row in (await rows_of(database)).values()} == {KEY_ID}


async def test_two_at_once(database: Database) -> None:
    await fill(database, 20)
    runs = await asyncio.gather(*(rewrap(database, keyring(), batch=2) for _ in range(4)))
    assert {run.state for run in runs} == {"done"}
    assert await under(database) == [(KEY_ID, "env-v2")]
    assert await opens(database, new_kek())


async def test_a_wrap_of_another_key_is_not_stored(database: Database) -> None:
    await fill(database, 3)
    before = await database.fetch(WRAPS)
    with pytest.raises(WrongWrap, match="does not open to the key"):
        await rewrap(database, Keyring(Cheating(Purpose.DATA_KEY), [old_kek()]))
    assert await database.fetch(WRAPS) == before
    assert await database.value("SELECT state FROM auth.rewrap_runs") == "failed"


async def test_one_that_is_gone_meanwhile_gets_no_wrap(database: Database) -> None:
    await fill(database, 1)
    keks = keyring()
    async with rewrap_engine(database) as engine:
        ring = Ring(engine, keks, ttl=3600, max_age=86_400)
        await ring.load()
        (record,) = await read_records(engine)
        source = ring.source(record.id)
        assert source is not None
        async with past_triggers(database) as superuser:
            await superuser.execute("DELETE FROM auth.encryption_data_keys")
        moves = DataKeyMove(engine, keks, ring)
        record = replace(record, wraps=(Wrap("not", "there", 3, "env-v2"),))
        with pytest.raises(OnlyThisRequest):
            await moves._give_wrap(keks, record, *source, target="env-v2", anew=False)
    assert await under(database) == [(KEY_ID, "env-v1")]


async def test_all_wraps_it_anew(database: Database) -> None:
    """For a KMS that keeps its kek_id when its key is rotated."""
    kek = Inside("env-v2", "bmV2ZXIgdXNlZCBidXQgaW4gdGhlc2UgdGVzdHM6IDE=")
    await fill(database, 3, kek=kek)
    before = await database.fetch(WRAPS)
    run = await rewrap(database, Keyring(kek), everything=True)
    assert (run.state, run.done) == ("done", 3)
    after = await database.fetch(WRAPS)
    assert await under(database) == [(KEY_ID, "env-v2")]
    assert after != before
    assert await opens(database, kek)


# ── those that are not open ───────────────────────────────────────────────────


async def plant(database: Database) -> None:
    """Put a record there that is no data key of ours."""
    await database.execute(
        "INSERT INTO auth.encryption_data_keys (id, seal) VALUES ($1, '1.no')", OTHER_ID
    )
    await database.execute(PLANT, OTHER_ID, "env-v1", "junk")


async def test_what_is_no_data_key_is_named_and_not_moved(database: Database) -> None:
    ledger = await fill(database, 3)
    await plant(database)
    environ = environ_of(database)
    done = await asyncio.to_thread(custody, environ, "rewrap", "run", "--json")
    assert done.code == 1
    assert done.complaint == (
        f"the record {OTHER_ID} holds no data key of ours; if it is not yours, run: "
        f"custody kek forget {OTHER_ID}"
    )
    said = json.loads(done.out)
    assert (said["state"], said["done"], said["data_keys"]) == ("failed", 3, [KEY_ID])
    assert await under(database) == [(KEY_ID, "env-v2"), (OTHER_ID, "env-v1")]
    assert await opened(database, keyring()) == ledger
    assert await retire(database, "env-v1") == "data-keys"
    await database.execute("DELETE FROM auth.encryption_data_keys WHERE id = $1", OTHER_ID)
    assert (await asyncio.to_thread(custody, environ, "rewrap", "run")).code == 0


async def test_one_of_a_kek_that_is_not_configured_is_named(database: Database) -> None:
    """Rows are moved all the same, once the target is on record."""
    await fill(database, 1)
    await rewrap(database, keyring())
    ledger = await fill(database, 3, prefix="later")
    made = await CountingKek("gone", "bmV2ZXIgdXNlZCBidXQgaW4gdGhlc2UgdGVzdHM6IDE=").wrap(
        Binding.of_data_key(KEY_ID), KEY
    )
    await database.execute("DELETE FROM auth.encryption_data_key_wraps")
    await database.execute(PLANT, KEY_ID, "gone", made.wrapped_mk)
    async with rewrap_engine(database) as engine:
        worker = worker_of(engine, keyring(), Options())
        run = await worker.run()
        (problem,) = (await worker.left(run)).data_keys
    assert (run.state, run.done) == ("failed", 3)
    assert f"the data key {KEY_ID} can't be opened: list the KEK of gone" in problem
    assert ledger.items() <= (await opened(database, keyring())).items()
    # Without one nothing is sealed.
    with pytest.raises(NotFinished, match="rows can't be sealed now"):
        await unseal_and_run(database)


async def unseal_and_run(database: Database) -> None:
    await database.execute(
        "ALTER TABLE auth.encryption_vaults DISABLE TRIGGER USER;"
        "UPDATE auth.encryption_vaults SET seal = NULL;"
        "ALTER TABLE auth.encryption_vaults ENABLE TRIGGER USER"
    )
    await rewrap(database, keyring(), legacy=True, give_up_after=0.2)


# ── the daemon's worker ───────────────────────────────────────────────────────


async def test_the_daemon_begins_a_run_for_a_data_key_alone(database: Database) -> None:
    await fill(database, 0)
    async with rewrap_engine(database) as engine:
        keks = keyring()
        ring = Ring(engine, keks, ttl=3600, max_age=86_400)
        await ring.load()
        worker = BackgroundRewrap(engine, engine, keks, ring, interval=1, metrics=Metrics().rewrap)
        assert await DataKeyMove(engine, keks, ring).stale("env-v2") == (KEY_ID,)
        await worker._look()
        assert await DataKeyMove(engine, keks, ring).stale("env-v2") == ()
        assert await under(database) == [(KEY_ID, "env-v2")]
        await worker._look()
        assert await database.value("SELECT count(*) FROM auth.rewrap_runs") == 1


# ── from one KMS to another ───────────────────────────────────────────────────


@pytest.mark.timeout(120)
async def test_from_aws_kms_to_openbao_and_the_old_key_is_retired(
    database: Database, bao: Bao, moto: Moto
) -> None:
    name = bao.make_key()
    arn = moto.make_key("alias/left-behind")
    environ = bao.environ(name) | moto.environ
    old, new = f"aws-kms:{arn}", f"vault:transit/{name}"
    first = load_keyring(old, (), environ=environ, development=False)
    await first.active.refresh()
    ledger = await fill(database, 20, kek=first.active)
    await first.close()
    keks = load_keyring(new, (old,), environ=environ, development=False)
    for backend in keks:
        await backend.refresh()
    run = await rewrap(database, keks, batch=6)
    assert (run.state, run.done, run.target) == ("done", 20, f"{new}:v1")
    assert await under(database) == [(KEY_ID, f"{new}:v1")]
    assert await retire(database, old) == "retired"
    await keks.close()
    alone = load_keyring(new, (), environ=environ, development=False)
    await alone.active.refresh()
    assert await opened(database, alone) == ledger
    # A new version of the key: the data key follows, within the server.
    bao.rotate(name)
    run = await rewrap(database, alone)
    assert (run.state, run.done, run.target) == ("done", 20, f"{new}:v2")
    assert await under(database) == [(KEY_ID, f"{new}:v2")]
    assert await retire(database, f"{new}:v1") == "retired"
    await alone.close()
