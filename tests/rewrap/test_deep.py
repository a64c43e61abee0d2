"""A deep rotation: a new data key, every row brought to it, and the one before is gone."""

import asyncio
import random
import secrets
from typing import Any
from unittest.mock import AsyncMock

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit.reading import Reader
from custody.audit.row_seal import RowSeals
from custody.audit.sealer import AuditSealer
from custody.audit.verify import Verification
from custody.datakeys.data_key import DataKey
from custody.datakeys.encoding import fields
from custody.datakeys.records import open_record, read_records
from custody.datakeys.ring import Ring
from custody.db.scope import transaction
from custody.rewrap import deep as deep_module
from custody.rewrap import resealing, runs, storing
from custody.rewrap.background import BackgroundRewrap
from custody.rewrap.deep import DeepRotation
from custody.rewrap.options import Options
from custody.rewrap.rows import SEALED_BEFORE, SealedRow, page
from custody.rewrap.target import Blocked
from custody.vault.key_check import key_check_value
from kek_backends.binding import Binding
from kek_backends.keyring import Keyring
from tests.audit_log import AuditLog
from tests.bindings import of
from tests.datakeys import KEY, KEY_ID
from tests.db.command import Command
from tests.db.connecting import engine_of
from tests.db.data_keys import FORGET, ask
from tests.db.kek_registry import retire
from tests.many_rows import first_state
from tests.proofs import FULL, some
from tests.rewrap.kit import (
    AGE_CLAIMS,
    DAMAGE,
    NEW,
    NEW_KEY,
    OLD,
    CountingKek,
    environ_of,
    fill,
    go_zk,
    keyring,
    make_format_1,
    new_kek,
    old_kek,
    opened,
    rewrap,
    rewrap_engine,
    rows_of,
    stamps,
    worker_of,
)
from tests.rewrap.test_data_keys import OTHER_ID, PLANT, WRAPS, live, under
from tests.sealed_rows import READ, past_triggers, seal_of
from tests.servers import Database

pytestmark = pytest.mark.usefixtures("short_waits")

KEYS = "SELECT id, seal, ended FROM auth.encryption_data_keys ORDER BY id"
BEFORE = DataKey.of(KEY_ID, KEY)


async def only_key(database: Database) -> DataKey:
    """Return the only data key, opened by the new KEK alone."""
    async with engine_of(database.url("custody_app")) as engine:
        (record,) = await read_records(engine)
    return (await open_record(Keyring(new_kek()), record)).key


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
    key = await only_key(database)
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
    after = await only_key(database)
    assert after.id > key.id
    assert await sealed_with(database, after) == {after.id: 30}


async def test_rows_that_were_never_sealed_come_along(database: Database) -> None:
    ledger = await fill(database, 6)
    await make_format_1(database, {user: ledger[user] for user in list(ledger)[2:4]})
    run, left = await deep(database, legacy=True)
    assert (run.state, run.done, run.failed, bool(left)) == ("done", 6, 0, False)
    key = await only_key(database)
    assert await sealed_with(database, key) == {key.id: 6}
    assert await opened(database, Keyring(new_kek())) == ledger


async def ring_of(engine: AsyncEngine, keks: Keyring | None = None) -> Ring:
    ring = Ring(engine, keks or keyring(), 3600, 86_400)
    await ring.load()
    return ring


async def test_the_audit_knows_data_keys_that_were_ended(database: Database) -> None:
    """Rows and checkpoints of two that are no more: each was spoken for when it was ended."""
    await fill(database, 3)
    log = AuditLog(database)
    await log.grow(2)
    await deep(database)
    async with (
        engine_of(database.url("custody_app")) as app,
        engine_of(database.url("custody_owner")) as owner,
    ):
        sealer = AuditSealer(app, await ring_of(app), 0, AsyncMock())
        assert await sealer.seal() == 1  # the run's own row
        await deep(database, Keyring(new_kek()))
        report = await Verification(
            Reader(owner), await ring_of(app), lambda _states, _report: 0
        ).run()
    assert report.is_good, report.findings + report.unseen
    assert (report.size, report.rows, report.checkpoints) == (17, 18, 3)
    assert report.notices[1].startswith("17 rows have a seal by a data key that was ended")


async def test_a_data_key_is_not_ended_while_nobody_can_speak_for_it(database: Database) -> None:
    await fill(database, 1)
    async with rewrap_engine(database) as engine:
        rotation = DeepRotation(engine, keyring(), await ring_of(engine), asyncio.Event())
        await rotation.announce()
        await rotation.promote()
        await database.execute("DELETE FROM auth.encryption_vaults")
        # Nothing carries it; but it was wrapped under the old KEK alone.
        keks = Keyring(new_kek())
        said = await DeepRotation(
            engine, keks, await ring_of(engine, keks), asyncio.Event()
        ).finish()
    assert said is not None
    assert "the audit would know nothing of it" in said
    assert "list the KEK of env-v1 in CUSTODY_OLD_KEKS" in said
    assert len(await database.fetch(KEYS)) == 2


async def put(database: Database, user: str, **columns: Any) -> dict[str, Any]:
    """Write columns of a row as one who may write whatever he likes; return the row then."""
    async with past_triggers(database) as superuser:
        for name, value in columns.items():
            await superuser.execute(
                f"UPDATE auth.encryption_vaults SET {name} = $2 WHERE user_id = $1",  # noqa: S608
                *(user, value),
            )
    return (await rows_of(database))[user]


KEPT = ("wrapped_mk", "wrap_iv", "kek_id", "key_check", "seal", "seal_serial", "generation")


def kept(row: dict[str, Any]) -> list[Any]:
    return [row[name] for name in KEPT]


# ── rows that are not believed ────────────────────────────────────────────────


async def test_what_was_tampered_with_is_never_sealed_anew(database: Database) -> None:
    ledger = await fill(database, 8)
    await go_zk(database, "user-000005", "user-000006")
    rows = await rows_of(database)
    good = {user: kept(row) for user, row in rows.items()}
    tampered: dict[str, dict[str, Any]] = {
        "user-000001": {"generation": 8},
        "user-000002": {"seal": BEFORE.prefix + "0" * 64},
        "user-000003": {"seal": rows["user-000004"]["seal"]},
        "user-000005": {"recovery_wrapped_mk": "mallory's"},
    }
    there = {user: kept(await put(database, user, **how)) for user, how in tampered.items()}
    run, left = await deep(database)
    assert (run.state, run.done, run.failed) == ("failed", 4, 4)
    assert f"{KEY_ID} can't be ended yet, rows are still sealed with it" in left.data_keys[0]
    now = await rows_of(database)
    assert {user: kept(now[user]) for user in tampered} == there
    assert all(now[user]["quarantine_reason"] for user in tampered)
    audited = [await database.audit(user) for user in tampered]
    assert audited == [[("rewrap_failed", "row-tampered", 500)]] * 4
    # Any run judges them again, and leaves them again.
    async with rewrap_engine(database) as engine:
        assert (await worker_of(engine, keyring(), Options()).run()).state == "failed"
    assert {
        user: kept(row) for user, row in (await rows_of(database)).items() if user in there
    } == there
    # Restored, they are sealed anew, whoever runs; and the data key before is ended.
    for user, columns in good.items():
        if user in tampered:
            await put(database, user, **dict(zip(KEPT, columns, strict=True)))
    await put(database, "user-000005", recovery_wrapped_mk="r")
    async with rewrap_engine(database) as engine:
        worker = worker_of(engine, keyring(), Options(quarantined=True))
        assert (await worker.run()).state == "done"
    key = await only_key(database)
    assert await sealed_with(database, key) == {key.id: 8}
    del ledger["user-000005"], ledger["user-000006"]
    assert await opened(database, Keyring(new_kek())) == ledger


async def test_a_wrap_that_does_not_open_keeps_no_old_data_key(database: Database) -> None:
    """The seal says nothing of the wrap: the row is set aside, and sealed anew."""
    await fill(database, 3)
    await database.execute(DAMAGE, ["user-000001"])
    run, left = await deep(database)
    assert (run.state, run.done, run.failed, bool(left)) == ("failed", 2, 1, False)
    key = await only_key(database)
    assert await sealed_with(database, key) == {key.id: 3}
    row = (await rows_of(database))["user-000001"]
    assert (row["kek_id"], bool(row["quarantined_at"])) == ("env-v1", True)
    # One that was set aside before is sealed anew, and stays aside.
    run, _ = await deep(database)
    assert (run.state, run.failed) == ("done", 0)
    key = await only_key(database)
    assert await sealed_with(database, key) == {key.id: 3}
    assert (await rows_of(database))["user-000001"]["quarantined_at"] == row["quarantined_at"]


async def test_rows_of_a_kek_that_is_not_configured_are_sealed_anew(database: Database) -> None:
    await fill(database, 2)
    await fill(database, 2, kek=CountingKek("gone", NEW_KEY), prefix="lost")
    run, left = await deep(database)
    assert (run.state, left.kek_ids, left.data_keys) == ("failed", ("gone",), ())
    key = await only_key(database)
    assert await sealed_with(database, key) == {key.id: 4}
    assert await stamps(database) == {("env-v2", 3): 2, ("gone", 3): 2}


# ── killed, and gone on with ──────────────────────────────────────────────────


class Killed(BaseException):
    """As by kill -9: nothing that comes after is done."""


def kill_at(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Have a run end at a moment."""
    owner, name, after = {
        "before the announcement": (DeepRotation, "announce", False),
        "announced": (DeepRotation, "announce", True),
        "promoted": (DeepRotation, "promote", True),
        "some rows": (storing, "store", True),
        "all rows": (DeepRotation, "finish", False),
        "records": (deep_module, "reseal_records", True),
        "ended": (DeepRotation, "finish", True),
    }[moment]
    real = getattr(owner, name)

    async def killed(*arguments: Any, **named: Any) -> Any:
        if after:
            await real(*arguments, **named)
        raise Killed

    monkeypatch.setattr(owner, name, killed)
    monkeypatch.setattr(runs, "leave", AsyncMock())


MOMENTS = (
    "before the announcement",
    "announced",
    "promoted",
    "some rows",
    "all rows",
    "records",
    "ended",
)


@pytest.mark.parametrize("again", some(["deep", "plain"], "deep"))
@pytest.mark.parametrize("moment", MOMENTS)
async def test_killed_between_two_steps(
    database: Database, monkeypatch: pytest.MonkeyPatch, moment: str, again: str
) -> None:
    ledger = await fill(database, 20)
    await go_zk(database, "user-000007")
    with monkeypatch.context() as patch:
        kill_at(patch, moment)
        with pytest.raises(Killed):
            await deep(database, batch=4)
    await database.execute(AGE_CLAIMS, 16)
    async with rewrap_engine(database) as engine:
        worker = worker_of(engine, keyring(), Options(deep=again == "deep"))
        run = await worker.run()
        assert (run.state, bool(await worker.left(run))) == ("done", False)
    key = await only_key(database)
    assert await sealed_with(database, key) == {key.id: 20}
    ended = await database.value("SELECT ended FROM auth.encryption_data_keys")
    if moment == "before the announcement":
        assert ended == ([KEY_ID] if again == "deep" else [])
    elif moment == "ended" and again == "deep":
        assert len(ended) == 2  # who asks after the end asks for another one
    else:
        assert ended == [KEY_ID]
    del ledger["user-000007"]
    assert await opened(database, Keyring(new_kek())) == ledger


async def test_two_at_once_share_one_rotation(database: Database) -> None:
    await fill(database, 60)
    async with rewrap_engine(database) as engine:
        workers = [worker_of(engine, keyring(), Options(deep=True, batch=3)) for _ in range(3)]
        ended = await asyncio.gather(*(worker.run() for worker in workers))
    assert {run.state for run in ended} == {"done"}
    key = await only_key(database)
    assert await sealed_with(database, key) == {key.id: 60}
    assert await database.value("SELECT count(*) FROM auth.rewrap_claims") == 0


async def test_who_joins_and_has_not_seen_the_promotion_helps(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run was begun by another process, right after it had read the records."""
    await fill(database, 6)
    with monkeypatch.context() as patch:
        kill_at(patch, "some rows")
        async with rewrap_engine(database) as engine:
            ring = Ring(engine, keyring(), ttl=3600, max_age=86_400)
            await ring.load()
            with pytest.raises(Killed):
                await deep(database, batch=2)
            (run,) = await runs.latest(engine, 1)
            rows = await read_sealed_before(engine, run)
            assert ring.current is not None
            assert ring.current.id == KEY_ID != run.data_key
            done, reason = await resealing.reseal(keyring(), ring, rows, run, None)
            assert (len(done.resealed), done.left, reason) == (len(rows), 0, None)
            assert rows


async def read_sealed_before(engine: AsyncEngine, run: runs.Run) -> tuple[SealedRow, ...]:
    async with transaction(engine) as connection:
        rows = await page(connection, run, SEALED_BEFORE, size=9)
    return tuple(row for row in rows if isinstance(row, SealedRow))


# ── who must follow ───────────────────────────────────────────────────────────


async def test_no_promotion_before_every_daemon_has_it_open(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep_module, "_WAIT_SECONDS", 0.0)
    await fill(database, 2)
    await live(database, reads=(NEW, "env-v2", OLD, "env-v1", KEY_ID), seals_with=KEY_ID)
    cure = "see its /readyz, or restart it, then run this again$"
    told = rf"far \(process 7\) has not opened the data key dk-[0-9a-f]+: {cure}"
    with pytest.raises(Blocked, match=told):
        await deep(database)
    assert await sealed_with(database, BEFORE) == {KEY_ID: 2}
    _, successor = [row["id"] for row in await database.fetch(KEYS)]
    # It has; and seals with the one before until it looks again.
    await live(database, reads=(NEW, "env-v2", KEY_ID, successor), seals_with=KEY_ID)
    run, left = await deep(database)
    assert (run.state, run.done) == ("failed", 2)
    assert f"still seals with {KEY_ID}" in left.data_keys[0]
    await live(database, reads=(NEW, "env-v2", KEY_ID, successor), seals_with=successor)
    async with rewrap_engine(database) as engine:
        worker = worker_of(engine, keyring(), Options())
        run = await worker.run()
        assert run.state == "failed"
        (problem,) = (await worker.left(run)).data_keys
    assert problem.startswith(f"the data key {KEY_ID} is ended; the daemon on far (process 7)")
    assert (await only_key(database)).id == successor
    assert (await rewrap(database, keyring())).state == "done"


async def test_a_row_that_lags_is_caught(database: Database) -> None:
    """Changed by a daemon that had not seen the promotion, while the rows were done."""
    ledger = await fill(database, 3)

    changed: list[str] = []

    async def rotate_once(user: str) -> None:
        if user == "user-000002" and not changed:
            changed.append(user)
            ledger["user-000000"] = await rotate_before(database, "user-000000")

    keks = Keyring(new_kek(rotate_once), [old_kek()])
    run, left = await deep(database, keks, batch=1)
    assert (run.state, bool(left), changed) == ("done", False, ["user-000002"])
    key = await only_key(database)
    assert await sealed_with(database, key) == {key.id: 3}
    assert await opened(database, Keyring(new_kek())) == ledger


async def rotate_before(database: Database, user: str) -> bytes:
    """Rotate as a daemon does that seals with the data key before."""
    return await rotate_with(database, user, BEFORE)


async def rotate_with(database: Database, user: str, data_key: DataKey) -> bytes:
    """Rotate as a daemon does that seals with this data key."""
    key = secrets.token_bytes(32)
    row = (await rows_of(database))[user]
    generation, serial = row["generation"] + 1, row["seal_serial"] + 1
    wrap, check = await new_kek().wrap(of(user, generation), key), key_check_value(user, key)
    state = first_state(check)._replace(generation=generation, serial=serial)
    async with past_triggers(database) as superuser:
        await superuser.execute(
            "UPDATE auth.encryption_vaults SET wrapped_mk = $2, wrap_iv = $3, kek_id = $4,"
            " generation = $5, key_check = $6, seal = $7, seal_serial = $8,"
            " row_version = row_version + 1 WHERE user_id = $1",
            *(user, wrap.wrapped_mk, wrap.wrap_iv, wrap.kek_id),
            *(generation, check, state.seal(data_key, user), serial),
        )
    return key


# ── what the one before leaves ────────────────────────────────────────────────


async def test_the_one_before_never_comes_under_the_new_kek(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever knows it could bring it back by such a wrap into a process that starts."""
    await fill(database, 3)
    seen: list[set[tuple[str, str]]] = []
    real = storing.store

    async def look(*arguments: Any, seals: RowSeals) -> Any:
        seen.append(set(await under(database)))
        return await real(*arguments, seals=seals)

    monkeypatch.setattr(storing, "store", look)
    await deep(database)
    key = await only_key(database)
    assert seen == [{(KEY_ID, "env-v1"), (key.id, "env-v2")}]
    assert await under(database) == [(key.id, "env-v2")]
    assert await retire(database, "env-v1") == "retired"


async def test_a_successor_that_another_kek_opens_is_not_gone_on_with(database: Database) -> None:
    """Whoever had the old KEK knows the data key, and announces one of his own."""
    await fill(database, 3)
    chosen = bytes(range(1, 33))
    evil = DataKey.of(OTHER_ID, chosen)
    assert OTHER_ID > KEY_ID
    wrap = await old_kek().wrap(Binding.of_data_key(OTHER_ID), chosen)
    await database.execute(
        "INSERT INTO auth.encryption_data_keys (id, seal) VALUES ($1, $2)",
        *(OTHER_ID, str(BEFORE.vouch(OTHER_ID, evil.own))),
    )
    await database.execute(
        "INSERT INTO auth.encryption_data_key_wraps VALUES ($1, 'env-v1', $2, $3, 3)",
        *(OTHER_ID, wrap.wrapped_mk, wrap.wrap_iv),
    )
    for junk in (False, True):
        if junk:
            await database.execute(PLANT, OTHER_ID, "env-v2", "AAAA")
        run, left = await deep(database)
        assert (run.state, run.data_key) == ("failed", None)
        assert left.data_keys[0].endswith(f"custody kek forget {OTHER_ID}")
        assert await sealed_with(database, evil, BEFORE) == {OTHER_ID: 0, KEY_ID: 3}
        wraps = [row["wrapped_key"] for row in await database.fetch(WRAPS)]
        assert len(wraps) == 2 + junk
    assert await ask(database, "custody_owner", FORGET, OTHER_ID) == "forgotten"
    run, left = await deep(database)
    assert (run.state, bool(left)) == ("done", False)


async def test_records_of_keks_are_sealed_anew_also_retired_ones(database: Database) -> None:
    await fill(database, 1)
    await rewrap(database, keyring())
    assert await retire(database, "env-v1") == "retired"
    before = await database.fetch("SELECT to_jsonb(k) - 'seal' FROM auth.encryption_keks AS k")
    run, left = await deep(database, Keyring(new_kek()))
    assert (run.state, bool(left)) == ("done", False)
    key = await only_key(database)
    after = await database.fetch("SELECT to_jsonb(k) - 'seal' FROM auth.encryption_keks AS k")
    assert after == before
    for record in await database.fetch("SELECT * FROM auth.encryption_keks"):
        made = key.record_seal.of(
            fields(
                "custody kek record v1",
                key.id,
                *(record["kek_id"], record["backend"], record["fingerprint"]),
            )
        )
        assert record["seal"] == key.prefix + made


async def test_a_record_of_a_kek_that_was_touched_is_not_sealed_anew(database: Database) -> None:
    await fill(database, 1)
    await rewrap(database, keyring())
    await database.execute("UPDATE auth.encryption_keks SET seal = NULL WHERE kek_id = 'env-v1'")
    await database.execute(
        "UPDATE auth.encryption_keks SET fingerprint = 'mallory''s', seal = $1"
        " WHERE kek_id = 'env-v1'",
        BEFORE.prefix + "0" * 64,
    )
    run, _ = await deep(database, Keyring(new_kek()))
    assert run.state == "done"
    there = "SELECT seal FROM auth.encryption_keks WHERE kek_id = 'env-v1'"
    assert await database.value(there) is None


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("kills", "rows"),
    [
        (4, 200),
        pytest.param(20, 700, marks=pytest.mark.prove),
        pytest.param(60, 2000, marks=FULL),
    ],
)
async def test_processes_are_killed(database: Database, kills: int, rows: int) -> None:
    """kill -9 at random moments: nothing is lost, and whoever comes next goes on."""
    seed = secrets.randbits(32)
    dice = random.Random(seed)  # noqa: S311
    ledger = await fill(database, rows)
    limits = ("--batch", "10", "--rate", "150")
    for number in range(kills):
        process = Command(environ_of(database), "rewrap", "run", "--deep", *limits)
        await asyncio.sleep(dice.uniform(0.3, 1.2))
        process.process.kill()
        await asyncio.to_thread(process.end)
        if number % 3 == 0:
            user = dice.choice(sorted(ledger))
            ledger[user] = await rotate_now(database, user)
    await database.execute(AGE_CLAIMS, 16)
    await database.execute(
        "UPDATE auth.rewrap_runs SET heartbeat_at = heartbeat_at - interval '2 minutes'"
    )
    run, left = await deep(database)
    assert (run.state, bool(left)) == ("done", False), seed
    key = await only_key(database)
    assert await sealed_with(database, key) == {key.id: rows}, seed
    assert await opened(database, Keyring(new_kek())) == ledger, seed


async def rotate_now(database: Database, user: str) -> bytes:
    """Rotate as a daemon does that seals with the current data key."""
    async with engine_of(database.url("custody_app")) as engine:
        ring = Ring(engine, keyring(), ttl=3600, max_age=86_400)
        await ring.load()
        assert ring.current is not None
        return await rotate_with(database, user, ring.current)


# ── the daemon's own worker ───────────────────────────────────────────────────


class NoMetrics:
    """Shows nothing."""

    def rewrapped(self, counts: Any) -> None: ...

    def show_rows(self, counted: Any) -> None: ...

    def show_run(self, run: Any) -> None: ...

    def looked(self) -> None: ...


async def test_the_daemons_worker_goes_on_with_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(database, 6)
    there = await put(database, "user-000003", generation=8)
    with monkeypatch.context() as patch:
        kill_at(patch, "announced")
        with pytest.raises(Killed):
            await deep(database)
    keks = keyring()
    async with (
        rewrap_engine(database) as engine,
        engine_of(database.url("custody_app")) as app,
    ):
        ring = Ring(engine, keks, ttl=3600, max_age=86_400)
        await ring.load()
        worker = BackgroundRewrap(engine, app, keks, ring, interval=300, metrics=NoMetrics())
        for _ in range(3):
            await worker._look()
        # Once: a row that is not believed is no reason for a run again and again.
        states = await database.fetch("SELECT state, failed FROM auth.rewrap_runs")
        assert [tuple(row) for row in states] == [("failed", 1)]
        assert kept((await rows_of(database))["user-000003"]) == kept(there)
        await database.execute("DELETE FROM auth.encryption_vaults WHERE user_id = 'user-000003'")
        await worker._look()
    key = await only_key(database)
    assert await sealed_with(database, key) == {key.id: 5}
