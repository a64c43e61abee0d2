"""Claims: who has one may store once; who lost one, or whose run has ended, stores nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.errors import DatabaseError
from custody.db.scope import transaction
from custody.rewrap import batch, claims, rows, runs, storing, worker
from custody.rewrap.claims import Claim
from custody.rewrap.options import Options, Verify
from custody.rewrap.rows import UNSEALED, Row, WrapKind
from custody.rewrap.runs import AnotherRun, Run, State
from custody.rewrap.storing import Counts, Done, LostClaim
from kek_backends.keyring import Keyring
from tests.db.kek_registry import register
from tests.eventually import eventually
from tests.rewrap.kit import (
    AGE_CLAIMS,
    fill,
    keyring,
    new_kek,
    old_kek,
    opened,
    rewrap,
    rewrap_engine,
    stamps,
    worker_of,
)
from tests.servers import Database

NEW, OLD = ("env-v2", 3), ("env-v1", 3)


@dataclass
class Work:
    """A run over ten rows, by hand."""

    database: Database
    engine: AsyncEngine
    run: Run
    ledger: dict[str, bytes]

    async def claim(self, owner: str, size: int = 4, *, readable: bool = True) -> Claim | None:
        return await claims.claim(self.engine, self.run, owner, size, lambda _lane: readable)

    async def must_claim(self, owner: str, size: int = 4) -> Claim:
        made = await self.claim(owner, size)
        assert made is not None
        return made

    async def rewrapped(self, claim: Claim) -> Done:
        made = [row for row in claim.rows if isinstance(row, Row)]
        done, reason = await batch.rewrap(keyring(), made, "env-v2", Verify.NONE)
        assert reason is None
        return done

    async def store(self, owner: str, claim: Claim, done: Done) -> Counts:
        return await storing.store(self.engine, self.run, owner, claim, done)

    async def counts(self) -> tuple[int, int, int]:
        run = await runs.read(self.engine, self.run.id)
        return run.done, run.moved, run.failed


@pytest.fixture
async def work(database: Database) -> AsyncIterator[Work]:
    ledger = await fill(database, 10)
    async with rewrap_engine(database) as engine:
        run = await runs.join(engine, "env-v2", everything=False, started_by="test")
        yield Work(database, engine, run, ledger)


def users(claim: Claim) -> list[int]:
    return [int(row.user_id[-2:]) for row in claim.rows]


async def test_claims_are_apart_and_cover_all(work: Work) -> None:
    found = [users(await work.must_claim(owner)) for owner in ("a", "b", "a")]
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert await work.claim("b") is None
    assert await claims.others_at_work(work.engine, work.run)


async def test_claims_made_at_once_are_apart(work: Work) -> None:
    found = await asyncio.gather(*(work.claim(str(number), 2) for number in range(4)))
    assert sorted(user for claim in found if claim for user in users(claim)) == list(range(8))


async def test_a_claim_is_left_alone_while_it_is_looked_after(work: Work) -> None:
    first = await work.must_claim("a", 10)
    await work.database.execute(AGE_CLAIMS, 14)
    assert await work.claim("b") is None
    await work.database.execute(AGE_CLAIMS, 16)
    await claims.touch(work.engine, first, "a")
    assert await work.claim("b") is None
    # Not by a word from somebody else.
    await work.database.execute(AGE_CLAIMS, 16)
    await claims.touch(work.engine, first, "b")
    assert (await work.must_claim("b", 10)).id == first.id


async def test_who_lost_a_claim_stores_nothing(work: Work) -> None:
    lost = await work.must_claim("a", 10)
    done = await work.rewrapped(lost)
    await work.database.execute(AGE_CLAIMS, 16)
    heir = await work.must_claim("b", 10)
    assert users(heir) == list(range(10))
    with pytest.raises(LostClaim):
        await work.store("a", lost, done)
    assert await work.counts() == (0, 0, 0)
    assert await stamps(work.database) == {OLD: 10}
    assert (await work.store("b", heir, await work.rewrapped(heir))).done == 10
    assert not await claims.others_at_work(work.engine, work.run)


@pytest.mark.parametrize("left", [0, 2])
async def test_the_word_of_a_commit_is_lost(work: Work, left: int) -> None:
    """Stored again with the same results, it is neither done nor counted twice."""
    claim = await work.must_claim("a", 10)
    done = await work.rewrapped(claim)
    done = Done(done.wrapped[left:], (), left)
    await work.store("a", claim, done)
    with pytest.raises(LostClaim):
        await work.store("a", claim, done)
    assert await work.counts() == (10 - left, 0, 0)
    assert (await stamps(work.database))[NEW] == 10 - left


async def test_a_claim_that_could_not_be_done_rests(work: Work) -> None:
    claim = await work.must_claim("a", 10)
    done = await work.rewrapped(claim)
    await work.store("a", claim, Done(done.wrapped[:7], (), left=3))
    assert await work.claim("b") is None
    await work.database.execute(AGE_CLAIMS, 5.1)
    # What was stored is not done again.
    assert users(await work.must_claim("b", 10)) == [7, 8, 9]


async def test_a_large_claim_is_taken_over_in_our_own_steps(work: Work) -> None:
    await work.must_claim("a", 9)
    await work.database.execute(AGE_CLAIMS, 16)
    found = []
    for _ in range(3):
        claim = await work.must_claim("b", 4)
        found.append((users(claim), claim.more))
        await work.store("b", claim, await work.rewrapped(claim))
    assert found == [([0, 1, 2, 3], True), ([4, 5, 6, 7], True), ([8], False)]
    assert users(await work.must_claim("b", 4)) == [9]


async def test_nothing_is_stored_for_a_run_that_has_ended(work: Work) -> None:
    claim = await work.must_claim("a", 10)
    done = await work.rewrapped(claim)
    await runs.end(work.engine, work.run.id, State.STOPPED, even_at_work=True)
    with pytest.raises(LostClaim):
        await work.store("a", claim, done)
    assert await stamps(work.database) == {OLD: 10}
    # And nobody waits for what is left of it.
    assert await work.claim("b") is None
    assert not await claims.others_at_work(work.engine, work.run)
    assert (await rewrap(work.database, keyring())).done == 10
    assert await work.database.value("SELECT count(*) FROM auth.rewrap_claims") == 0


async def test_a_run_does_not_end_under_others_hands(work: Work) -> None:
    claim = await work.must_claim("a", 10)
    assert (await runs.end(work.engine, work.run.id, State.DONE)).state is State.RUNNING
    await work.store("a", claim, await work.rewrapped(claim))
    assert (await runs.end(work.engine, work.run.id, State.DONE)).state is State.DONE
    assert (await runs.end(work.engine, work.run.id, State.FAILED)).state is State.DONE
    assert await work.database.audit("") == [("rewrap_run", "run-done", 200)]


async def test_the_cursor_is_not_set_back_under_others_hands(work: Work) -> None:
    claim = await work.must_claim("a", 6)
    await claims.rewind(work.engine, work.run)
    assert users(await work.must_claim("b", 2)) == [6, 7]
    await work.store("a", claim, await work.rewrapped(claim))
    await claims.rewind(work.engine, work.run)
    assert users(await work.must_claim("b", 2)) == [8, 9]


async def test_rows_that_cannot_be_read_here_are_not_claimed(work: Work) -> None:
    assert await work.claim("a", readable=False) is None
    assert not await rows.any_left(work.engine, work.run, lambda _lane: False)
    assert await rows.any_left(work.engine, work.run, lambda _lane: True)
    assert await rows.kinds(work.engine, work.run) == (UNSEALED, WrapKind(*OLD))


async def test_a_claim_that_nobody_here_can_read_blocks_nothing(work: Work) -> None:
    """It was left by a worker that had a KEK more."""
    await work.must_claim("a", 4)
    await work.database.execute(AGE_CLAIMS, 16)
    await register(work.database, "env-v2", new_kek().fingerprint("env-v2"))
    async with asyncio.timeout(5):
        run = await rewrap(work.database, Keyring(new_kek()))
    assert (run.id, run.state, run.done) == (work.run.id, "failed", 0)


async def test_a_dead_workers_run_is_finished(work: Work) -> None:
    claim = await work.must_claim("dead", 4)
    await work.store("dead", claim, await work.rewrapped(claim))
    await work.must_claim("dead", 4)
    await work.database.execute(AGE_CLAIMS, 16)
    run = await rewrap(work.database, keyring())
    assert (run.id, run.state, run.total, run.done) == (work.run.id, "done", 10, 10)
    assert await opened(work.database, keyring()) == work.ledger


@pytest.mark.prove
async def test_a_frozen_worker_holds_up_nobody_for_long(work: Work) -> None:
    """One that stops inside its transaction: its locks end within seconds."""
    async with transaction(work.engine) as held:
        await held.fetch("SELECT * FROM auth.rewrap_runs FOR UPDATE")
        settings = await held.fetchrow(
            "SELECT current_setting('idle_in_transaction_session_timeout'),"
            " current_setting('lock_timeout'), current_setting('transaction_isolation')"
        )
        assert settings is not None
        assert tuple(settings) == ("5s", "2s", "read committed")
        with pytest.raises(DatabaseError):
            await work.claim("b")


# ── runs ──────────────────────────────────────────────────────────────────────


async def join(engine: AsyncEngine, target: str, *, everything: bool = False) -> Run:
    return await runs.join(engine, target, everything=everything, started_by="another")


async def test_a_claim_is_renewed_while_a_kek_takes_its_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_TOUCH_SECONDS", 0.02)
    await fill(database, 2)
    renewed: list[bool] = []

    async def slow(_user: str) -> None:
        made = await database.value("SELECT max(heartbeat_at) FROM auth.rewrap_claims")
        later = "SELECT bool_or(heartbeat_at > $1) FROM auth.rewrap_claims"
        with contextlib.suppress(AssertionError):
            renewed.append(await eventually(lambda: database.value(later, made), 2))

    run = await rewrap(database, Keyring(new_kek(slow), [old_kek()]))
    assert (run.state, run.done, renewed) == ("done", 2, [True, True])


async def test_one_run_at_a_time(work: Work) -> None:
    found = await asyncio.gather(*(join(work.engine, "env-v2") for _ in range(4)))
    assert {run.id for run in found} == {work.run.id}
    for target, everything in (("env-v3", False), ("env-v2", True)):
        with pytest.raises(AnotherRun, match="run 1 to env-v2 is going on, started by test"):
            await join(work.engine, target, everything=everything)


async def test_runs_that_begin_at_once_are_one(database: Database) -> None:
    async with rewrap_engine(database) as engine:
        found = await asyncio.gather(*(join(engine, "env-v2") for _ in range(4)))
    assert {run.id for run in found} == {1}


async def test_a_dead_run_with_another_aim_makes_way(work: Work) -> None:
    await work.must_claim("dead")
    beat = "UPDATE auth.rewrap_runs SET heartbeat_at = now() - make_interval(secs => $1)"
    await work.database.execute(beat, 50.0)
    with pytest.raises(AnotherRun):
        await join(work.engine, "env-v3")
    await work.database.execute(beat, 61.0)
    run = await join(work.engine, "env-v3")
    assert (run.id, run.target, run.state) == (2, "env-v3", "running")
    assert (await runs.read(work.engine, 1)).state is State.STOPPED
    assert await work.database.audit("") == [("rewrap_run", "run-stopped", 500)]
    assert await work.database.value("SELECT count(*) FROM auth.rewrap_claims") == 0


async def test_a_dead_run_over_other_rows_makes_way(work: Work) -> None:
    before = work.run
    for everything in (True, False):
        await work.database.execute(
            "UPDATE auth.rewrap_runs SET heartbeat_at = now() - interval '2 minutes'"
        )
        run = await join(work.engine, "env-v2", everything=everything)
        assert (run.everything, run.state) == (everything, "running")
        assert (await runs.read(work.engine, before.id)).state is State.STOPPED
        before = run


async def test_a_run_over_all_rows_is_not_taken_up_after_days(database: Database) -> None:
    """The key may have been rotated again: what it did before is not done."""
    async with rewrap_engine(database) as engine:
        for age, number in (("23 hours", 1), ("25 hours", 2)):
            await join(engine, "env-v2", everything=True)
            await database.execute(
                f"UPDATE auth.rewrap_runs SET heartbeat_at = now() - interval '{age}'"  # noqa: S608
                " WHERE state = 'running'"
            )
            assert (await join(engine, "env-v2", everything=True)).id == number


async def test_a_run_that_set_rows_aside_is_not_done(work: Work) -> None:
    claim = await work.must_claim("a", 10)
    aside = [(claim.rows[0], "damaged")]
    await work.store("a", claim, Done((await work.rewrapped(claim)).wrapped[1:], aside, 0))
    ended = await runs.end(work.engine, work.run.id, State.DONE)
    assert (ended.state, ended.done, ended.failed) == ("failed", 9, 1)
    assert await work.database.audit("") == [("rewrap_run", "run-failed", 500)]


@pytest.mark.prove
async def test_another_process_stops_the_run(work: Work) -> None:
    """Because the target has moved, or it was told to end: this one looks anew, and goes on."""
    stopped = asyncio.Event()

    async def stop(user: str) -> None:
        if user == "user-000004" and not stopped.is_set():
            stopped.set()
            await runs.end(work.engine, work.run.id, State.STOPPED, even_at_work=True)

    keks = Keyring(new_kek(stop), [next(kek for kek in keyring() if kek.kek_id == "env-v1")])
    async with rewrap_engine(work.database) as engine, asyncio.timeout(20):
        run = await worker_of(engine, keks, Options(batch=2)).run()
    assert (run.id, run.state) == (1, "done")
    assert await opened(work.database, keyring()) == work.ledger


async def test_pace_and_time_left(work: Work) -> None:
    assert (work.run.rows_a_second, work.run.seconds_left) == (0.0, None)
    await work.database.execute(
        "UPDATE auth.rewrap_runs SET done = 4, failed = 1,"
        " heartbeat_at = started_at + interval '2 s'"
    )
    run = await runs.read(work.engine, work.run.id)
    assert (run.rows_a_second, run.seconds_left) == (2.5, 2.0)
    await register(work.database, "env-v2")
    ended = await runs.end(work.engine, run.id, State.STOPPED)
    assert ended.seconds_left is None
