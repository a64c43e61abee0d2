"""The second root: a run wraps every data key under it, too, and waits for nothing of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import AsyncMock

import pytest
from structlog.testing import capture_logs

from custody.datakeys.ring import Ring
from custody.datakeys.sealer import Sealer
from custody.keks.second import SecondRoot
from custody.ops.metrics import Metrics
from custody.rewrap.background import BackgroundRewrap
from custody.rewrap.data_keys import DataKeyMove
from custody.rewrap.deep import DeepRotation
from custody.rewrap.options import Options
from custody.rewrap.worker import RewrapRun
from kek_backends.base import KekBackend, Purpose
from kek_backends.binding import Binding
from kek_backends.errors import Denied, Transient
from kek_backends.keyring import Keyring
from tests.bao_server import Bao
from tests.datakeys import KEY_ID
from tests.db.command import Done, custody
from tests.db.kek_registry import states
from tests.kek.fakes import FakeKms
from tests.leaks import remember
from tests.moto_server import Moto
from tests.proofs import some
from tests.rewrap.kit import (
    KEKS,
    NEW_KEY,
    OLD,
    SETTINGS,
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
)
from tests.rewrap.test_data_keys import WRAPS, opens, under
from tests.servers import Database

pytestmark = pytest.mark.usefixtures("short_waits")

SECOND_KEY = remember("dGhlIHNlY29uZCByb290IG9mIHRoZXNlIHRlc3RzOjE=")
SECOND = "env:SECOND?id=second"
BOTH = [(KEY_ID, "env-v2"), (KEY_ID, "second")]
PUT = "INSERT INTO auth.encryption_data_key_wraps VALUES ($1, $2, $3, $4, 3)"
PREFIX = "data keys have no new wrap under CUSTODY_SECOND_KEK: "


class Second(CountingKek):
    """A KEK that may be told to fail as a KMS does, and counts its proofs."""

    def __init__(self) -> None:
        super().__init__("second", SECOND_KEY)
        self.failure: Exception | None = None
        self.proofs = 0

    async def refresh(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def prove(self) -> None:
        self.proofs += 1


@asynccontextmanager
async def run_of(
    database: Database, second: KekBackend, keks: Keyring | None = None, everything: bool = False
) -> AsyncIterator[RewrapRun]:
    """Make a run with a second root."""
    async with rewrap_engine(database) as engine:
        keks = keks or keyring()
        ring = Ring(engine, keks, ttl=3600, max_age=86_400)
        root = SecondRoot(second, engine, keks, Sealer(ring))
        yield RewrapRun(engine, keks, ring, Options(everything=everything), second=root)


async def brought(database: Database, second: KekBackend) -> tuple[str, list[str]]:
    """Run once; return the state at its end, and its problems."""
    async with run_of(database, second) as worker:
        run = await worker.run()
        return run.state, list((await worker.left(run)).data_keys)


def with_second(database: Database, **changes: str) -> dict[str, str]:
    return environ_of(database) | {"CUSTODY_SECOND_KEK": SECOND, "SECOND": SECOND_KEY, **changes}


async def command(environ: dict[str, str], *words: str) -> Done:
    return await asyncio.to_thread(custody, environ, *words)


async def test_a_new_data_key_is_under_both_before_anything_is_sealed_with_it(
    database: Database,
) -> None:
    """By a deep run: nothing is ever sealed with what the second root alone could not open."""
    await fill(database, 5)
    environ = with_second(database)
    done = await command(environ, "rewrap", "run", "--deep")
    assert done.code == 0, done.err
    found = await under(database)
    (made,) = {key_id for key_id, _ in found}
    assert made != KEY_ID
    assert found == [(made, "env-v2"), (made, "second")]
    logged = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    steps = [(one["event"], one.get("kek_id")) for one in logged if one.get("data_key") == made]
    assert steps.index(("data_key_rewrapped", "second")) < steps.index(("data_key_promoted", None))
    assert (await command(environ, "kek", "drill")).code == 0


async def test_a_successor_is_given_both_before_it_is_promoted(database: Database) -> None:
    await fill(database, 1)
    keks = keyring()
    async with rewrap_engine(database) as engine:
        ring = Ring(engine, keks, ttl=3600, max_age=86_400)
        await DeepRotation(engine, keks, ring, asyncio.Event()).announce()
        (successor,) = ring.successors
        root = AsyncMock(spec=SecondRoot)
        root.admit.return_value = "second"
        root.keyring = lambda: Keyring(Second(), list(keks))
        moves = DataKeyMove(engine, keks, ring, root)
        assert await moves.give_wraps("env-v2", anew=False) == ()  # it was made under that
        assert await moves.give_second_wraps("env-v2", anew=False) == (successor.id,)
    assert {kek_id for key_id, kek_id in await under(database) if key_id == successor.id} == {
        "env-v2",
        "second",
    }


async def test_each_data_key_is_under_both(database: Database) -> None:
    ledger = await fill(database, 5)
    second = Second()
    async with run_of(database, second) as worker:
        assert (await worker.run()).state == "done"
    assert worker.moved_data_keys == (KEY_ID,)
    assert await under(database) == BOTH
    assert await opens(database, new_kek())
    assert await opens(database, second)
    # Of users' keys it has wrapped none.
    assert second.wrapped.total() == 0
    assert second.proofs == 1
    assert await opened(database, Keyring(new_kek())) == ledger
    assert (await states(database))["second"] == "decrypt-only"
    # All is as it should be; nothing is wrapped twice.
    before = await database.fetch(WRAPS)
    assert await brought(database, second) == ("done", [])
    assert await database.fetch(WRAPS) == before


async def test_the_command_says_what_it_did(database: Database) -> None:
    await fill(database, 1)
    foreseen = await command(with_second(database), "rewrap", "run", "--dry-run", "--json")
    assert json.loads(foreseen.out)["data_keys"] == [KEY_ID]
    assert "second" not in await states(database)
    done = await command(with_second(database), "rewrap", "run", "--json")
    assert (done.code, json.loads(done.out)["data_keys"]) == (0, [KEY_ID])
    assert await under(database) == BOTH
    foreseen = await command(with_second(database), "rewrap", "run", "--dry-run", "--json")
    assert json.loads(foreseen.out)["data_keys"] == []


async def test_all_wraps_anew_under_both(database: Database) -> None:
    """For a KMS that keeps its kek_id when its key is rotated."""
    kek, second = Inside("env-v2", NEW_KEY), Second()
    await fill(database, 2, kek=kek)
    async with run_of(database, second, Keyring(kek)) as worker:
        await worker.run()
    before = {row["kek_id"]: row["wrapped_key"] for row in await database.fetch(WRAPS)}
    async with run_of(database, second, Keyring(kek), everything=True) as worker:
        assert (await worker.run()).state == "done"
    after = {row["kek_id"]: row["wrapped_key"] for row in await database.fetch(WRAPS)}
    assert before.keys() == after.keys() == {"env-v2", "second"}
    assert all(before[kek_id] != after[kek_id] for kek_id in before)
    assert await opens(database, second)


@pytest.mark.parametrize("planted", ["junk", "another key"])
async def test_what_does_not_open_under_it_is_replaced(database: Database, planted: str) -> None:
    await fill(database, 1)
    second = Second()
    if planted == "junk":
        await database.execute(PUT, KEY_ID, "second", "junk", "")
    else:
        made = await second.wrap(Binding.of_data_key(KEY_ID), bytes(32))
        await database.execute(PUT, KEY_ID, "second", made.wrapped_mk, made.wrap_iv)
    assert await brought(database, second) == ("done", [])
    assert await opens(database, second)


@pytest.mark.parametrize("failure", [Transient("KMS away"), Denied("no right")], ids=type)
async def test_rows_do_not_wait_for_it(database: Database, failure: Exception) -> None:
    ledger = await fill(database, 5)
    second = Second()
    second.failure = failure
    assert await brought(database, second) == ("failed", [f"{PREFIX}{failure}"])
    assert await under(database) == [(KEY_ID, "env-v1"), (KEY_ID, "env-v2")]
    assert await opened(database, Keyring(new_kek())) == ledger
    # Once it is back, the next run makes up for it.
    second.failure = None
    assert await brought(database, second) == ("done", [])
    assert await under(database) == BOTH


async def test_rows_do_not_wait_for_one_that_hangs(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend of others may have no deadline of its own."""
    monkeypatch.setattr("custody.rewrap.data_keys._SECONDS", 0.2)
    monkeypatch.setattr("custody.keks.second._SECONDS", 0.2)
    ledger = await fill(database, 2)
    second = Second()
    monkeypatch.setattr(second, "_wrap", hangs)
    assert await brought(database, second) == ("failed", [f"{PREFIX}a KEK gave no answer in time"])
    assert await opened(database, Keyring(new_kek())) == ledger
    monkeypatch.setattr(second, "refresh", hangs)
    assert (await brought(database, second))[1] == [f"{PREFIX}{second.uri.text}: no answer in time"]


@pytest.mark.parametrize(("words", "said"), [("KMS away", "KMS away"), ("", "Transient")])
async def test_why_it_was_not_looked_at_is_said(database: Database, words: str, said: str) -> None:
    await fill(database, 1)
    root = AsyncMock(spec=SecondRoot)
    root.look.side_effect = Transient(words)
    keks = keyring()
    async with rewrap_engine(database) as engine:
        ring = Ring(engine, keks, ttl=3600, max_age=86_400)
        await ring.load()
        moves = DataKeyMove(engine, keks, ring, root)
        with capture_logs() as logs:
            assert await moves.stale("env-v2") == (KEY_ID,)
        assert await moves.problems() == (f"{PREFIX}{said}",)
        assert [(one["event"], one["reason"]) for one in logs] == [("second_root_failed", said)]
        root.look.side_effect = None
        root.look.return_value = None
        await moves.stale("env-v2")
        assert await moves.problems() == ()


async def hangs(*_: object) -> None:
    await asyncio.Event().wait()


async def test_nothing_goes_while_it_is_away(database: Database) -> None:
    """What nobody wants any more may be its own, or that of a second root of before."""
    await fill(database, 1)
    second, newest = Second(), CountingKek("env-v3", SECOND_KEY.swapcase())
    await brought(database, second)
    away = FakeKms(None, error=Transient("KMS away"))
    async with run_of(database, away, Keyring(newest, [new_kek()])) as worker:
        run = await worker.run()
        (problem,) = (await worker.left(run)).data_keys
    assert problem == f"{PREFIX}fake:key: not reached yet"
    assert await under(database) == [(KEY_ID, kek_id) for kek_id in ("env-v2", "env-v3", "second")]
    second.failure = Transient("KMS away")
    async with run_of(database, second, Keyring(newest, [new_kek()])) as worker:
        assert (await worker.run()).state == "failed"
    assert len(await under(database)) == 3
    second.failure = None
    async with run_of(database, second, Keyring(newest)) as worker:
        assert (await worker.run()).state == "done"
    assert await under(database) == [(KEY_ID, "env-v3"), (KEY_ID, "second")]
    assert await opens(database, second)


@pytest.mark.prove
async def test_its_wraps_go_when_it_is_taken_away(database: Database) -> None:
    await fill(database, 1)
    environ = with_second(database)
    assert (await command(environ, "rewrap", "run")).code == 0
    refused = await command(environ, "kek", "retire", "second")
    assert refused.code == 1
    assert refused.complaint == (
        "data keys are still wrapped under second, the second root: take CUSTODY_SECOND_KEK away, "
        "or set another KEK there, then: custody rewrap run"
    )
    del environ["CUSTODY_SECOND_KEK"]
    assert "custody rewrap run" in (await command(environ, "kek", "retire", "second")).complaint
    assert (await command(environ, "rewrap", "run")).code == 0
    assert await under(database) == [(KEY_ID, "env-v2")]
    assert (await command(environ, "kek", "retire", "second")).code == 0
    # Retired is for good.
    done = await command(with_second(database), "rewrap", "run")
    assert done.code == 1
    assert "the kek_id second is retired" in done.complaint
    assert done.complaint.startswith(PREFIX)
    assert await under(database) == [(KEY_ID, "env-v2")]
    doctor = await command(with_second(database, **app(database)), "doctor")
    assert "ERROR   kek env:SECOND?id=second: KEK env:SECOND?id=second: the kek_id" in doctor.out


async def test_another_second_root_takes_its_place(database: Database) -> None:
    await fill(database, 1)
    await brought(database, Second())
    other = CountingKek("other", SECOND_KEY.swapcase())
    assert await brought(database, other) == ("done", [])
    assert await under(database) == [(KEY_ID, "env-v2"), (KEY_ID, "other")]


async def test_other_material_under_its_kek_id_is_refused(database: Database) -> None:
    await fill(database, 1)
    await brought(database, Second())
    before = await database.fetch(WRAPS)
    state, (problem,) = await brought(database, CountingKek("second", SECOND_KEY.swapcase()))
    assert state == "failed"
    assert "the kek_id second stands for other key material" in problem
    assert await database.fetch(WRAPS) == before


async def test_a_wrap_of_another_key_is_not_stored(database: Database) -> None:
    await fill(database, 1)
    cheating = Cheating(Purpose.DATA_KEY)
    async with run_of(database, cheating, Keyring(old_kek())) as worker:
        run = await worker.run()
        (problem,) = (await worker.left(run)).data_keys
    assert "does not open to the key" in problem
    assert await under(database) == [(KEY_ID, "env-v1")]


@pytest.mark.prove
@pytest.mark.timeout(120)
async def test_a_new_version_of_its_key(database: Database, bao: Bao) -> None:
    """Of a transit key that was rotated: the newer wrap first, then the older one goes."""
    name = bao.make_key()
    await fill(database, 1)
    environ = environ_of(database) | bao.environ(name)
    environ["CUSTODY_SECOND_KEK"] = uri = f"vault:transit/{name}"
    assert (await command(environ, "rewrap", "run")).code == 0
    assert await under(database) == [(KEY_ID, "env-v2"), (KEY_ID, f"{uri}:v1")]
    bao.rotate(name)
    done = await command(environ, "rewrap", "run", "--json")
    assert (done.code, json.loads(done.out)["data_keys"]) == (0, [KEY_ID])
    assert await under(database) == [(KEY_ID, "env-v2"), (KEY_ID, f"{uri}:v2")]
    # Gone for good: users' rows are no concern of its.
    bao.delete_key(name)
    done = await command(environ, "rewrap", "run")
    assert (done.code, done.complaint.startswith(PREFIX)) == (1, True)
    assert await under(database) == [(KEY_ID, "env-v2"), (KEY_ID, f"{uri}:v2")]
    drilled = await command(environ, "kek", "drill")
    assert (drilled.code, name in drilled.complaint) == (78, True)


# ── what is refused ───────────────────────────────────────────────────────────


REFUSED = {
    SETTINGS["CUSTODY_KEK"]: "names a key that CUSTODY_KEK or CUSTODY_OLD_KEKS names, too",
    f"{OLD}?id=second": "names a key that CUSTODY_KEK or CUSTODY_OLD_KEKS names, too",
    "env:COPY?id=second": "are one key, or share the kek_id second: the second root must be",
    "env:SECOND?id=env-v2": "share the kek_id env-v2: the second root must be another KEK",
    "env:SECOND?id=env-v1": "share the kek_id env-v1: the second root must be another KEK",
    "env:NOBODY": "NOBODY",
    "nothing": "not a KEK URI",
    SECOND_KEY: "holds what looks like a key",
}


@pytest.mark.parametrize("uri", some(list(REFUSED), f"{OLD}?id=second", "env:SECOND?id=env-v2"))
async def test_a_second_root_that_can_be_none(database: Database, uri: str) -> None:
    environ = with_second(database, CUSTODY_SECOND_KEK=uri, COPY=NEW_KEY)
    done = await command(environ, "rewrap", "run")
    assert done.code == 78
    assert REFUSED[uri] in done.complaint
    assert SECOND_KEY not in done.err


# ── the daemon's worker, the doctor, the list ─────────────────────────────────


async def test_the_daemon_begins_a_run_for_it_alone(database: Database) -> None:
    await fill(database, 0)
    await rewrap(database, keyring())
    second = Second()
    async with rewrap_engine(database) as engine:
        keks = keyring()
        ring = Ring(engine, keks, ttl=3600, max_age=86_400)
        await ring.load()
        root = SecondRoot(second, engine, keks, Sealer(ring))
        worker = BackgroundRewrap(
            engine, engine, keks, ring, interval=1, metrics=Metrics().rewrap, second=root
        )
        second.failure = Transient("KMS away")
        with capture_logs() as logs:
            await worker._look()
        assert [one for one in logs if one["event"] == "second_root_failed"]
        assert await runs(database) == 1  # one that could do nothing is not begun
        second.failure = None
        await worker._look()
        assert await under(database) == BOTH
        await worker._look()
        assert await runs(database) == 2
    assert second.proofs == 1


async def runs(database: Database) -> int:
    return int(await database.value("SELECT count(*) FROM auth.rewrap_runs"))


def app(database: Database) -> dict[str, str]:
    return {"CUSTODY_DATABASE_URL": database.url("custody_app")}


async def test_the_doctor_finds_a_data_key_without_it(database: Database) -> None:
    await fill(database, 1)
    environ = with_second(database, **app(database))
    before = (await command(environ, "doctor")).out
    assert (
        f"ERROR   data-key: the data key {KEY_ID} has no wrap under CUSTODY_SECOND_KEK, {SECOND}\n"
        "          cure: custody rewrap run\n" in before
    )
    assert f"unseen  kek {SECOND}: no fingerprint is recorded for second yet; the next custody" in (
        before
    )
    await command(environ, "rewrap", "run")
    after = (await command(environ, "doctor")).out
    assert "CUSTODY_SECOND_KEK" not in after
    assert f"ok      kek {SECOND}: wraps and unwraps; kek_id second\n" in after
    assert f"ok      kek {SECOND}: its fingerprint is the one recorded for second\n" in after
    del environ["SECOND"]
    assert (
        "ERROR   kek: CUSTODY_SECOND_KEK: KEK env:SECOND" in (await command(environ, "doctor")).out
    )


async def test_the_list_shows_it(database: Database) -> None:
    await fill(database, 1)
    environ = with_second(database)
    await command(environ, "rewrap", "run")
    listed = json.loads((await command(environ, "kek", "list", "--json")).out)
    assert {one["kek_id"]: (one["state"], one["second"]) for one in listed} == {
        "env-v1": ("decrypt-only", False),
        "env-v2": ("active", False),
        "second": ("decrypt-only", True),
    }
    done = await command(environ, "kek", "list")
    (line,) = [line for line in done.out.splitlines() if line.startswith("second ")]
    assert line.endswith("  second root")
    assert done.out.count(f"  data key {KEY_ID} since") == 2
    assert (done.code, "custody: " in done.err) == (0, False)


# ── beside AWS KMS ────────────────────────────────────────────────────────────


@pytest.mark.prove
@pytest.mark.timeout(120)
async def test_beside_an_alias_of_the_same_account(database: Database, moto: Moto) -> None:
    """An alias holds what is on record of its kind: that makes it no second root."""
    await fill(database, 1)
    moto.make_key("alias/first")
    arn = moto.make_key("alias/second")
    environ = moto.environ | KEKS | environ_of(database)
    environ |= {"CUSTODY_KEK": "aws-kms:alias/first", "CUSTODY_SECOND_KEK": f"aws-kms:{arn}"}
    for _ in range(2):
        done = await command(environ, "rewrap", "run")
        assert (done.code, "CUSTODY_SECOND_KEK" in done.err) == (0, False), done.err
        assert (await command(environ, "kek", "drill")).code == 0
        wraps = [kek_id for _, kek_id in await under(database)]
        assert (len(wraps), f"aws-kms:{arn}" in wraps) == (2, True)
    # The same key by another name: known at once, or when its KMS has said so.
    environ["CUSTODY_OLD_KEKS"] = "aws-kms:alias/first"
    alias, key = "aws-kms:alias/second", f"aws-kms:{arn}"
    for first, second, code in ((alias, key, 78), (key, alias, 1)):
        environ |= {"CUSTODY_KEK": first, "CUSTODY_SECOND_KEK": second}
        done = await command(environ, "rewrap", "run")
        assert (done.code, "the second root must be another KEK" in done.complaint) == (code, True)
        doctor = await command(environ | app(database), "doctor")
        assert doctor.code == 1
        assert "the second root must be another KEK" in doctor.out
    assert len(await under(database)) == 2
