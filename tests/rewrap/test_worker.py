"""One worker and its rows: all that can be done is done, and nothing else is touched."""

import asyncio
import itertools
import time
from dataclasses import replace

import pytest

from custody.db.errors import DatabaseError
from custody.keks import instances
from custody.keks.instances import Instance
from custody.rewrap.backoff import NotFinished
from custody.rewrap.batch import WrongWrap
from custody.rewrap.options import Options, Verify
from custody.rewrap.runs import State
from custody.rewrap.target import Blocked
from custody.vault.key_check import key_check_value
from kek_backends.binding import Purpose
from kek_backends.errors import Misconfigured
from kek_backends.keyring import Keyring
from tests.db.connecting import engine_of
from tests.db.kek_registry import register
from tests.eventually import eventually
from tests.kek.fakes import FakeRemote, SdkBusy, SdkError, raising
from tests.rewrap.kit import (
    DAMAGE,
    NEW_KEY,
    Cheating,
    Counted,
    CountingKek,
    Inside,
    fill,
    go_zk,
    keyring,
    make_format_1,
    new_kek,
    old_kek,
    opened,
    rewrap,
    rewrap_engine,
    rotate,
    rows_of,
    stamps,
    worker_of,
)
from tests.sealed_rows import past_triggers
from tests.servers import Database

pytestmark = pytest.mark.usefixtures("short_waits")

UNTOUCHED = (
    "recovery_wrapped_mk",
    "recovery_iv",
    "recovery_format_version",
    "recovery_set_at",
    "zero_knowledge",
    "created_at",
    "rotated_at",
    "generation",
    "key_check",
)
NEW = ("env-v2", 3)


# ── all of them, and nothing else ─────────────────────────────────────────────


async def test_every_row_comes_to_the_active_kek(database: Database) -> None:
    ledger = await fill(database, 60)
    await make_format_1(database, dict(itertools.islice(ledger.items(), 20)))
    away = ["user-000005", "user-000050"]
    await go_zk(database, *away)
    before = await rows_of(database)
    keks = keyring()
    run = await rewrap(database, keks, batch=7, legacy=True)
    assert (run.state, run.total, run.done, run.moved, run.failed) == ("done", 58, 58, 0, 0)
    assert (run.target, run.sources, run.everything) == ("env-v2", ("env-v1",), False)
    assert await stamps(database) == {NEW: 58}
    after = await rows_of(database)
    for user, row in after.items():
        untouched = dict(before[user])
        if row["seal"] != before[user]["seal"]:
            untouched["key_check"] = key_check_value(user, ledger[user])
            assert before[user]["seal"] is None
        assert {name: row[name] for name in UNTOUCHED} == {
            name: untouched[name] for name in UNTOUCHED
        }
        assert row["seal"] is not None
        assert (row == before[user]) == (user in away)
        assert (row["rewrapped_at"] is None) == (user in away)
        assert row["quarantined_at"] is None
    assert await opened(database, keks) == {
        user: key for user, key in ledger.items() if user not in away
    }
    assert await database.audit("") == [("rewrap_run", "run-done", 200)]
    assert await database.value("SELECT count(*) FROM auth.rewrap_claims") == 0


async def test_every_row_once(database: Database) -> None:
    ledger = await fill(database, 100)
    keks = keyring()
    await rewrap(database, keks, batch=9, verify=Verify.NONE)
    active = keks.active
    assert isinstance(active, CountingKek)
    assert active.wrapped == dict.fromkeys(ledger, 1)
    # A second run finds nothing.
    run = await rewrap(database, keks)
    assert (run.state, run.total, run.done) == ("done", 0, 0)
    assert active.wrapped.total() == 100


async def test_rows_of_several_keks(database: Database) -> None:
    other = CountingKek("zz", NEW_KEY)
    ledger = await fill(database, 10)
    ledger |= await fill(database, 10, kek=other, prefix="other")
    await make_format_1(database, dict(itertools.islice(ledger.items(), 5)))
    keks = Keyring(new_kek(), [old_kek(), other])
    run = await rewrap(database, keks, batch=3, legacy=True)
    assert (run.state, run.done, run.sources) == ("done", 20, ("env-v1", "zz"))
    assert await opened(database, keks) == ledger
    assert await stamps(database) == {NEW: 20}


async def test_format_1_under_the_active_kek(database: Database) -> None:
    ledger = await fill(database, 6)
    await make_format_1(database, dict(itertools.islice(ledger.items(), 3)))
    keks = Keyring(old_kek())
    run = await rewrap(database, keks, legacy=True)
    assert (run.state, run.total, run.done) == ("done", 3, 3)
    assert await stamps(database) == {("env-v1", 3): 6}
    assert await opened(database, keks) == ledger


@pytest.mark.parametrize("batch", [1, 2, 1000])
async def test_batches(database: Database, batch: int) -> None:
    ledger = await fill(database, 12)
    keks, steps = keyring(), list[int]()
    await rewrap(database, keks, lambda _run, counts: steps.append(counts.done), batch=batch)
    assert await opened(database, keks) == ledger
    assert sum(steps) == 12
    assert max(steps) == min(batch, 12)


async def test_all_of_them(database: Database) -> None:
    """For a KMS whose kek_id stays when its key is rotated: each row once, once a run."""
    kek = Inside("env-v2", NEW_KEY)
    ledger = await fill(database, 30, kek=kek)
    kek.wrapped.clear()
    keks = Keyring(kek)
    assert (await rewrap(database, keks)).total == 0
    for times in (1, 2):
        run = await rewrap(database, keks, everything=True, batch=4)
        assert (run.state, run.total, run.done) == ("done", 30, 30)
        assert kek.wrapped == dict.fromkeys(ledger, times)
    assert await opened(database, keks) == ledger


async def test_all_of_them_with_stale_ones(database: Database) -> None:
    ledger = await fill(database, 10) | await fill(database, 10, kek=new_kek(), prefix="new")
    keks = keyring()
    run = await rewrap(database, keks, everything=True, batch=4, verify=Verify.NONE)
    assert (run.state, run.total, run.done) == ("done", 20, 20)
    assert isinstance(keks.active, CountingKek)
    assert keks.active.wrapped == dict.fromkeys(ledger, 1)


async def test_all_of_them_ends_though_the_clock_was_set_back(database: Database) -> None:
    await fill(database, 10, kek=new_kek())
    keks = keyring()
    await register(database, "env-v2")
    await database.execute(
        "INSERT INTO auth.rewrap_runs (target, everything, started_by, sources, total, started_at)"
        " VALUES ('env-v2', true, 'another', '{}', 10, now() + interval '1 hour')"
    )
    run = await rewrap(database, keks, everything=True, give_up_after=2)
    assert (run.state, run.done) == ("done", 10)


async def test_rate_bounds_rows_a_second(database: Database) -> None:
    ledger = await fill(database, 15)
    keks, steps = keyring(), list[int]()
    began = time.monotonic()
    await rewrap(database, keks, lambda _run, counts: steps.append(counts.done), batch=500, rate=10)
    # The first ten at once, the last five after a second: never earlier, however busy we are.
    assert time.monotonic() - began >= 0.95
    assert max(steps) <= 10
    assert await opened(database, keks) == ledger


# ── damage ────────────────────────────────────────────────────────────────────


async def test_damaged_rows_are_set_aside(database: Database) -> None:
    ledger = await fill(database, 40)
    bad = ["user-000000", "user-000017", "user-000039"]
    await database.execute(DAMAGE, list(bad))
    before = await rows_of(database)
    keks = keyring()
    run = await rewrap(database, keks, batch=5)
    assert (run.state, run.done, run.failed, run.moved) == ("failed", 37, 3, 0)
    rows = await rows_of(database)
    for user in ledger:
        aside = rows[user]["quarantined_at"] is not None
        assert aside == (user in bad)
        assert (rows[user]["quarantine_reason"] is not None) == aside
        expected = [("rewrap_failed", "unwrap-failed", 500)] if aside else []
        assert await database.audit(user) == expected
        if aside:
            assert rows[user]["wrapped_mk"] == before[user]["wrapped_mk"]
    assert rows[bad[0]]["quarantine_reason"] == (
        "the wrap does not open under this KEK for this binding"
    )
    assert await database.audit("") == [("rewrap_run", "run-failed", 500)]
    # A later run leaves them alone.
    run = await rewrap(database, keks)
    assert (run.state, run.total, run.failed) == ("done", 0, 0)
    assert await database.audit(bad[0]) == [("rewrap_failed", "unwrap-failed", 500)]
    # Unless it is asked, and then only once.
    await database.execute(DAMAGE, [bad[1]])  # back to what it was
    run = await rewrap(database, keks, quarantined=True)
    assert (run.state, run.total, run.done, run.failed) == ("failed", 3, 1, 2)
    assert (await rows_of(database))[bad[1]]["quarantined_at"] is None


@pytest.mark.parametrize(
    "change",
    [
        "wrapped_mk = 'no base64!'",
        "wrap_iv = ''",
        "format_version = 7",
        "wrapped_mk = ''",
        "key_check = repeat('0', 64)",
        "key_check = 'été'",
        "kek_id = 'env-v2'",
    ],
)
async def test_any_damage(database: Database, change: str) -> None:
    if change == "kek_id = 'env-v2'":
        change = "kek_id = 'env-v2', format_version = 1"  # stale still
        await fill(database, 0)
        await rewrap(database, keyring())  # both KEKs are on record
    await fill(database, 3)
    async with past_triggers(database) as superuser:
        await superuser.execute(
            f"UPDATE auth.encryption_vaults SET {change} WHERE user_id = 'user-000001'"  # noqa: S608
        )
    run = await rewrap(database, keyring())
    assert (run.state, run.done, run.failed) == ("failed", 2, 1)
    assert (await rows_of(database))["user-000001"]["quarantined_at"] is not None


@pytest.mark.parametrize("verify", list(Verify))
async def test_a_format_1_wrap_of_another_user_is_never_bound(
    database: Database, verify: Verify
) -> None:
    ledger = await fill(database, 4)
    checks = {user: row["key_check"] for user, row in (await rows_of(database)).items()}
    await make_format_1(database, ledger)
    for user, check in checks.items():
        await database.execute(
            "UPDATE auth.encryption_vaults SET key_check = $2 WHERE user_id = $1", user, check
        )
    await database.execute(
        "UPDATE auth.encryption_vaults AS vault SET wrapped_mk = other.wrapped_mk,"
        " wrap_iv = other.wrap_iv FROM auth.encryption_vaults AS other"
        " WHERE vault.user_id = 'user-000001' AND other.user_id = 'user-000002'"
    )
    run = await rewrap(database, keyring(), verify=verify, legacy=True)
    assert (run.state, run.done, run.failed) == ("failed", 3, 1)
    row = (await rows_of(database))["user-000001"]
    assert (row["kek_id"], row["format_version"]) == ("env-v1", 1)
    assert row["quarantine_reason"] == "the wrap opens to another key than this user's"


async def test_rows_of_a_kek_that_is_not_there_are_left(database: Database) -> None:
    await fill(database, 5)
    await fill(database, 3, kek=CountingKek("aa", NEW_KEY), prefix="lost")
    keks = keyring()
    run = await rewrap(database, keks)
    assert (run.state, run.total, run.done, run.failed) == ("failed", 8, 5, 0)
    assert await stamps(database) == {NEW: 5, ("aa", 3): 3}
    async with rewrap_engine(database) as engine:
        worker = worker_of(engine, keks, Options())
        assert (await worker.left(run)).kek_ids == ("aa",)


async def test_a_wrong_old_key_sets_nothing_aside(database: Database) -> None:
    await fill(database, 5)
    await register(database, "env-v1", old_kek().fingerprint("env-v1"))
    keks = Keyring(new_kek(), [CountingKek("env-v1", NEW_KEY)])
    with pytest.raises(Misconfigured, match="stands for other key material"):
        await rewrap(database, keks)
    rows = (await rows_of(database)).values()
    assert [row["quarantined_at"] for row in rows] == [None] * 5
    assert await database.value("SELECT count(*) FROM auth.rewrap_runs") == 0


# ── users at the same time ────────────────────────────────────────────────────


async def test_progress_is_told_of_each_batch_whatever_came_of_it(database: Database) -> None:
    await fill(database, 3)
    await database.execute(DAMAGE, ["user-000001"])
    told: list[tuple[int, int, int]] = []

    async def quicker(user: str) -> None:
        if user == "user-000002":
            await rotate(database, user)

    keks = Keyring(new_kek(quicker), [old_kek()])
    await rewrap(
        database,
        keks,
        lambda _run, counts: told.append((counts.done, counts.moved, counts.failed)),
        batch=1,
        verify=Verify.NONE,
    )
    assert sorted(told) == [(0, 0, 1), (0, 1, 0), (1, 0, 0)]


async def test_a_users_rotate_wins(database: Database) -> None:
    ledger = await fill(database, 6)

    async def quicker(user: str) -> None:
        if user == "user-000003":
            ledger[user] = await rotate(database, user)

    keks = Keyring(new_kek(quicker), [old_kek()])
    run = await rewrap(database, keks, verify=Verify.NONE)
    assert (run.state, run.done, run.moved) == ("done", 5, 1)
    assert await opened(database, keks) == ledger


async def test_a_users_rotate_wins_over_quarantine(database: Database) -> None:
    ledger = await fill(database, 3)
    await database.execute(DAMAGE, ["user-000001"])

    async def quicker(user: str) -> None:
        if user == "user-000002":
            ledger["user-000001"] = await rotate(database, "user-000001")

    keks = Keyring(new_kek(quicker), [old_kek()])
    run = await rewrap(database, keks, verify=Verify.NONE)
    assert (run.state, run.done, run.moved, run.failed) == ("done", 2, 1, 0)
    assert await opened(database, keks) == ledger
    assert await database.audit("user-000001") == []


async def test_a_user_who_turns_zk_on_wins(database: Database) -> None:
    await fill(database, 3)

    async def quicker(user: str) -> None:
        if user == "user-000001":
            await go_zk(database, user)

    run = await rewrap(database, Keyring(new_kek(quicker), [old_kek()]))
    assert (run.state, run.done, run.moved) == ("done", 2, 1)
    row = (await rows_of(database))["user-000001"]
    assert (row["wrapped_mk"], row["zero_knowledge"]) == (None, True)


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_locked_row_is_done_later(database: Database, damaged: bool) -> None:
    """Nobody waits for it, least of all with other rows locked."""
    await fill(database, 5)
    if damaged:
        await database.execute(DAMAGE, ["user-000002"])
    steps: list[int] = []
    async with database.connect() as user:
        transaction = user.transaction()
        await transaction.start()
        await user.execute(
            "SELECT * FROM auth.encryption_vaults WHERE user_id = 'user-000002' FOR UPDATE"
        )
        running = asyncio.create_task(
            rewrap(database, keyring(), lambda _run, counts: steps.append(counts.done))
        )
        await eventually(lambda: sum(steps) == 4, 1.9)  # a lock is waited for longer
        assert await stamps(database) == {NEW: 4, ("env-v1", 3): 1}
        await transaction.rollback()
        run = await running
    assert run.moved > 0
    if damaged:
        assert (run.state, run.done, run.failed) == ("failed", 4, 1)
    else:
        assert (run.state, run.done) == ("done", 5)


async def test_a_row_that_stays_locked_is_left_in_the_end(database: Database) -> None:
    await fill(database, 2)
    async with database.connect() as user, user.transaction():
        await user.execute("SELECT * FROM auth.encryption_vaults LIMIT 1 FOR UPDATE")
        with pytest.raises(NotFinished, match="others hold, or change again and again"):
            await rewrap(database, keyring(), give_up_after=0.3)


async def test_rows_that_become_stale_behind_the_cursor_are_done(database: Database) -> None:
    ledger = await fill(database, 6)

    async def quicker(user: str) -> None:
        # By a daemon that was not restarted yet.
        if user == "user-000005" and "back" not in ledger:
            ledger["back"] = b""
            ledger["user-000000"] = await rotate(database, "user-000000", old_kek())

    keks = Keyring(new_kek(quicker), [old_kek()])
    run = await rewrap(database, keks, batch=1)
    del ledger["back"]
    assert (run.state, run.done) == ("done", 7)
    assert await opened(database, keks) == ledger


# ── workers at the same time ──────────────────────────────────────────────────


async def test_workers_share_a_run(database: Database) -> None:
    ledger = await fill(database, 400)
    rings = [keyring() for _ in range(3)]
    found = await asyncio.gather(
        *(rewrap(database, ring, batch=5, verify=Verify.NONE) for ring in rings)
    )
    assert {run.id for run in found} == {1}
    assert {run.state for run in found} == {State.DONE}
    assert found[0].done == 400
    counts = [ring.active.wrapped for ring in rings if isinstance(ring.active, CountingKek)]
    assert sum(counts, start=type(counts[0])()) == dict.fromkeys(ledger, 1)
    assert sum(1 for count in counts if count) > 1
    assert await database.audit("") == [("rewrap_run", "run-done", 200)]


async def test_stop_and_go_on(database: Database) -> None:
    ledger = await fill(database, 50)
    keks = keyring()
    async with rewrap_engine(database) as engine:
        worker = worker_of(engine, keks, Options(batch=5, verify=Verify.NONE))

        async def enough(user: str) -> None:
            if user == "user-000012":
                worker.stop()

        assert isinstance(keks.active, CountingKek)
        keks.active.before_wrap = enough
        with pytest.raises(NotFinished, match="run it again"):
            await worker.run()
    done = (await stamps(database))[NEW]
    assert 10 <= done <= 20
    run = await rewrap(database, keks, batch=5, verify=Verify.NONE)
    assert (run.id, run.state, run.done) == (1, "done", 50)
    assert keks.active.wrapped == dict.fromkeys(ledger, 1)


async def test_a_kms_that_hangs_does_not_hold_up_the_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("custody.rewrap.worker._GRACE_SECONDS", 0.2)
    await fill(database, 5)
    hanging = asyncio.Event()

    async def hang(_user: str) -> None:
        hanging.set()
        await asyncio.sleep(60)

    async with rewrap_engine(database) as engine:
        worker = worker_of(engine, Keyring(new_kek(hang), [old_kek()]), Options())
        running = asyncio.create_task(worker.run())
        await hanging.wait()
        worker.stop()
        async with asyncio.timeout(5):
            with pytest.raises(NotFinished):
                await running
    # What it was cut off from is anybody's.
    assert await database.value("SELECT state FROM auth.rewrap_runs") == "stopped"
    assert await database.fetch("SELECT owner, isfinite(heartbeat_at) FROM auth.rewrap_claims") == [
        ("", False)
    ]


# ── KEKs that fail ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("checked", [True, False], ids=["by check value", "by old wrap"])
@pytest.mark.parametrize("verify", [Verify.SAMPLE, Verify.ALL])
async def test_a_wrap_of_another_key_is_not_stored(
    database: Database, verify: Verify, checked: bool
) -> None:
    await fill(database, 5)
    if not checked:
        async with past_triggers(database) as superuser:
            await superuser.execute("UPDATE auth.encryption_vaults SET key_check = NULL")
    before = await rows_of(database)
    keks = Keyring(Cheating(Purpose.MASTER_KEY), [old_kek()])
    with pytest.raises(WrongWrap, match="does not open to the key"):
        await rewrap(database, keks, verify=verify)
    assert await rows_of(database) == before
    assert await database.audit("") == [("rewrap_run", "run-failed", 500)]
    # The next run, with a KEK that is right, is not held up by what was left of it.
    assert (await rewrap(database, keyring())).state is State.DONE


@pytest.mark.parametrize(
    ("verify", "some"), [(None, 3), (Verify.SAMPLE, 3), (Verify.ALL, 100), (Verify.NONE, 0)]
)
async def test_so_many_wraps_are_opened_again(
    database: Database, verify: Verify | None, some: int
) -> None:
    await fill(database, 100)
    kek = Counted()
    run = await rewrap(database, Keyring(kek, [old_kek()]), verify=verify)
    assert (run.state, run.done) == ("done", 100)
    assert (len(kek.unwrapped), kek.unwrapped.total()) == (some, some)


async def test_a_kms_that_is_down_pauses_the_run(database: Database) -> None:
    ledger = await fill(database, 40)
    remote = FakeRemote()
    down = time.monotonic() + 0.5

    def fault() -> None:
        if time.monotonic() < down:
            raise SdkBusy

    keks = Keyring(remote, [old_kek()])
    await remote.refresh()
    await remote.prove()
    remote.always = lambda: None
    async with rewrap_engine(database) as engine:
        worker = worker_of(engine, keks, Options(batch=10))
        remote.faults["encrypt"] = [lambda: None]  # the proof
        remote.always = fault
        remote.faults["ask"] = [lambda: None] * 3
        remote.faults["decrypt"] = [lambda: None] * 4  # the rest of it
        run = await worker.run()
    assert (run.state, run.done) == ("done", 40)
    assert await opened(database, keks) == ledger
    await keks.close()


async def test_it_gives_up_in_the_end(database: Database) -> None:
    await fill(database, 4)
    remote = FakeRemote()
    keks = Keyring(remote, [old_kek()])
    remote.faults["ask"] = [lambda: None] * 2
    remote.faults["encrypt"] = [lambda: None]
    remote.faults["decrypt"] = [lambda: None] * 4  # the rest of it
    remote.always = raising(SdkError())
    with pytest.raises(NotFinished, match="run it again: fake:remote: SdkError"):
        await rewrap(database, keks, give_up_after=0.3)
    assert await stamps(database) == {("env-v1", 3): 4}
    await keks.close()


async def test_the_target_moves(database: Database) -> None:
    ledger = await fill(database, 40)
    remote = FakeRemote()
    keks = Keyring(remote, [old_kek()])

    def move(_run: object, _counts: object) -> None:
        remote.version = 2

    run = await rewrap(database, keks, move, batch=5)
    assert (run.id, run.state, run.target) == (2, "done", "fake:v2")
    assert await stamps(database) == {("fake:v2", 3): 40}
    assert await opened(database, keks) == ledger
    assert await database.audit("") == [
        ("rewrap_run", "run-stopped", 500),
        ("rewrap_run", "run-done", 200),
    ]
    await keks.close()


async def test_the_target_is_retired_meanwhile(database: Database) -> None:
    await fill(database, 4)

    async def retire(_user: str) -> None:
        await database.execute(
            "UPDATE auth.encryption_keks SET state = 'retired', retired_at = now()"
            " WHERE kek_id = 'env-v2' AND state <> 'retired'"
        )

    with pytest.raises(Blocked, match="retired meanwhile: set CUSTODY_KEK"):
        await rewrap(database, Keyring(new_kek(retire), [old_kek()]), verify=Verify.NONE)
    assert await stamps(database) == {("env-v1", 3): 4}


async def test_a_daemon_in_the_way_is_named(database: Database) -> None:
    """Each message says which process it is, and the cure."""
    async with engine_of(database.url("custody_app")) as app:
        said = Instance(
            id="i1",
            host="far",
            process=7,
            writes_uri="env:OLD",
            writes_kek_id="env-v1",
            active_kek_id="env-v1",
            reads=("env:OLD", "env-v1"),
        )
        await instances.record(app, said)
        cure = r"list it there in CUSTODY_KEK or CUSTODY_OLD_KEKS and restart it$"
        with pytest.raises(
            Blocked, match=rf"^the daemon on far \(process 7\) can't read .*: {cure}"
        ):
            await rewrap(database, keyring())
        reads = (*said.reads, "env:ENV-V2?id=env-v2", "env-v2")
        await instances.record(app, replace(said, reads=reads))
        cure = r"set CUSTODY_KEK to env:ENV-V2\?id=env-v2 there and restart it$"
        told = rf"^the daemon on far \(process 7\) still writes under env:OLD: {cure}"
        with pytest.raises(Blocked, match=told):
            await rewrap(database, keyring())


async def test_a_stop_ends_what_is_tried_again(database: Database) -> None:
    async with rewrap_engine(database) as engine:
        worker = worker_of(engine, keyring(), Options())
        tried = asyncio.Event()

        async def down() -> None:
            tried.set()
            raise DatabaseError("down")

        trying = asyncio.create_task(worker._retried(down))
        await tried.wait()
        worker.stop()
        with pytest.raises(NotFinished, match=r"^stopped before the end, run it again"):
            async with asyncio.timeout(5):
                await trying
