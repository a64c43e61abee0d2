"""A database from before an erasure: who was erased gets no key of it, and is erased again."""

import asyncio
import errno
import fcntl
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from custody.db import erasures
from custody.db.engine import Dsn
from custody.db.erase import erase_user
from custody.db.erasure_record import Erasure, RecordError
from custody.db.erasures import Erasures
from custody.ops import health
from custody.settings import ConfigurationError
from tests.client import Answer, Client, becomes, client_session, readiness
from tests.db.command import Command, Done, custody
from tests.eventually import eventually
from tests.majors import NEW_CLIENTS
from tests.sealed_rows import past_triggers
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

AGAIN = 0.3
CURE = "custody users replay-erasures --yes"
# As a COMMIT that takes its time.
SLOW = """
CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(60); RETURN OLD; END $$;
CREATE CONSTRAINT TRIGGER wait AFTER DELETE ON auth.users
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.id IN ('alice', 'user-2'))
    EXECUTE FUNCTION public.wait();
"""
FAST = "DROP TRIGGER wait ON auth.users; DROP FUNCTION public.wait()"
WAITING = "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
END_IT = (
    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
    " WHERE wait_event = 'PgSleep'"
)
END_ALL = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = $1"
ERASURES = "SELECT count(*) FROM auth.encryption_vault_audit WHERE action = 'erase'"
VAULTS = "SELECT coalesce(array_agg(user_id ORDER BY user_id), '{}') FROM auth.encryption_vaults"


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_AGAIN_SECONDS", AGAIN)
    monkeypatch.setattr(health, "_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(erasures, "_READ_SECONDS", 0.1)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The erasure record of a new host."""
    path = tmp_path / "erasures.jsonl"
    path.touch(0o600)
    return path


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[Erasures]:
    """What the daemons of a test hold their databases against, in order."""
    made: list[Erasures] = []

    def make(path: Path | None) -> Erasures:
        made.append(Erasures(path))
        return made[-1]

    monkeypatch.setattr("custody.app.Erasures", make)
    return made


@pytest.fixture
async def daemon(
    database: Database, issuer: Issuer, tmp_path: Path, record: Path, held: list[Erasures]
) -> AsyncIterator[Daemon]:
    assert held == []
    async with serving(database, issuer, tmp_path, record) as running:
        yield running


@asynccontextmanager
async def serving(
    database: Database, issuer: Issuer, folder: Path, record: Path
) -> AsyncIterator[Daemon]:
    path = str(record)
    async with daemon_here(
        database, issuer, folder, ERASURE_RECORD=path, AUDIT_SEAL_INTERVAL="1"
    ) as running:
        yield running


def variables(daemon: Daemon, database: Database | None = None) -> dict[str, str]:
    url = (database or daemon.database).url("custody_owner")
    return {**daemon.settings, "CUSTODY_OWNER_DATABASE_URL": url}


async def command(daemon: Daemon, *words: str, database: Database | None = None) -> Done:
    return await asyncio.to_thread(custody, variables(daemon, database), *words)


async def erase(daemon: Daemon, user: str) -> None:
    done = await command(daemon, "users", "erase", user, "--yes")
    assert (done.code, done.err) == (0, "")


async def replay(daemon: Daemon, *words: str, database: Database | None = None) -> str:
    done = await command(daemon, "users", "replay-erasures", *words, database=database)
    assert (done.code, done.err) == (0, "")
    return done.out


def written(record: Path) -> str:
    return record.read_text("utf-8")


def lines_of(record: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in written(record).splitlines()]


def write(record: Path, text: str) -> None:
    record.write_text(text, "utf-8")


def begin_anew(record: Path) -> None:
    record.unlink(missing_ok=True)
    record.touch(0o600)


def mode_of(record: Path) -> int:
    return record.stat().st_mode & 0o777


def backup(database: Database, into: Database, folder: Path) -> None:
    """Restore what a database has now into an empty one."""
    file = str(folder / "custody.dump")
    done = database.tool("pg_dump", "postgres", "-Fc", "-f", file)
    assert done.returncode == 0, done.stderr
    done = into.tool("pg_restore", "postgres", "--exit-on-error", file)
    assert done.returncode == 0, done.stderr


def refused(answer: Answer) -> bool:
    """Whether nothing of a vault is in the answer."""
    assert (answer.status, answer.code) == (503, "DATABASE_UNAVAILABLE")
    return True


@pytest.mark.prove
@NEW_CLIENTS
async def test_restored_from_before(
    daemon: Daemon, empty: Database, tmp_path: Path, record: Path
) -> None:
    async with client_session() as session:
        alice, bob = (Client(daemon, session, user) for user in ("alice", "bob"))
        await alice.init()
        key = (await bob.init()).json
        backup(daemon.database, empty, tmp_path)
        await erase(daemon, "alice")
        assert (await alice.key()).status == 404
        assert (await readiness(daemon))[0] == 200
        assert mode_of(record) == 0o600

        async with serving(empty, daemon.issuer, tmp_path, record) as again:
            alice, bob = (Client(again, session, user) for user in ("alice", "bob"))
            status, parts = await readiness(again)
            assert (status, parts["database"], CURE in parts["erasures"]) == (503, "ok", True)
            for client in (alice, bob):
                assert refused(await client.key()), refused(await client.init())
                assert refused(await client.status())
            done = await command(again, "doctor")
            assert done.code == 1
            problem, _, cure = (parts["erasures"] or "").partition("; run: ")
            assert f"ERROR   erasures: {problem}\n" in done.out
            assert f" cure: {cure}\n" in done.out

            done = await command(again, "verify")
            assert done.code == 1
            due = f"user alice: was erased, and this database is from before that; run: {CURE}"
            assert due in done.out
            assert "2 of 2 rows looked at" in done.out
            assert "1 erasures are due" in done.out.splitlines()[-1]

            said = await replay(again, "--dry-run")
            assert said == "1 of 1 erasures on record are due\n"
            assert await empty.value(VAULTS) == ["alice", "bob"]
            said = await replay(again, "--yes")
            assert said == (
                "1 of 1 erasures on record were made again: 1 vaults and 1 users were removed\n"
            )
            await becomes(again, 200)
            assert (await alice.key()).code == "VAULT_NOT_INITIALISED"
            assert (await bob.key()).json == key
            assert ("erase", "replayed", 200) in await empty.audit("alice")
            done = await command(again, "doctor")
            assert "erasures: 1 on record, each of them made in this database" in done.out
            for words in (("audit", "verify"), ("verify",)):
                done = await command(again, *words)
                assert done.code == 0, done.out + done.err
            assert json.loads(await replay(again, "--yes", "--json")) == {
                "recorded": 1,
                "due": 0,
                "vaults": 0,
                "users": 0,
                "left": 0,
            }
            assert await empty.value(ERASURES) == 1


@pytest.mark.prove
@NEW_CLIENTS
async def test_an_erasure_that_a_thief_made_up_is_found(
    daemon: Daemon, empty: Database, tmp_path: Path, record: Path
) -> None:
    """Who has custody_app's password can say that an erasure was made; the vault is still there."""
    async with client_session() as session:
        await Client(daemon, session, "alice").init()
    backup(daemon.database, empty, tmp_path)
    await erase(daemon, "alice")
    (line,) = lines_of(record)
    async with empty.connect("custody_app") as thief, thief.transaction():
        await thief.execute("SELECT set_config('app.current_user_id', 'alice', true)")
        await thief.execute(
            "INSERT INTO auth.encryption_vault_audit (id, user_id, action, status, state)"
            " VALUES ($1, 'alice', 'erase', 200, 'erased')",
            line["id"],
        )
    assert "0 of 1" in await replay(daemon, "--dry-run", database=empty)
    done = await command(daemon, "audit", "verify", database=empty)
    assert (done.code, "there is a vault that was erased" in done.out) == (1, True)


@pytest.mark.prove
@NEW_CLIENTS
async def test_who_came_back_is_not_erased_again(
    daemon: Daemon, empty: Database, tmp_path: Path, record: Path
) -> None:
    async with client_session() as session:
        alice = Client(daemon, session, "alice")
        await alice.init()
        await erase(daemon, "alice")
        await becomes(daemon, 200)
        key = (await alice.init()).json
        assert (await alice.key()).json == key
        backup(daemon.database, empty, tmp_path)
        async with serving(empty, daemon.issuer, tmp_path, record) as again:
            assert (await readiness(again))[0] == 200
            alice = Client(again, session, "alice")
            assert (await alice.key()).json == key
            rotated = await alice.rotate()
            assert (rotated.status, rotated.json == key) == (200, False)
            assert "0 vaults" in await replay(again, "--yes")
            assert (await alice.key()).json == rotated.json


async def swap(one: Database, other: Database) -> None:
    """Put another database in the place of one."""
    admin = Database(one.server, "postgres")
    await admin.execute(f"ALTER DATABASE {one.name} ALLOW_CONNECTIONS false")
    await admin.value(END_ALL, one.name)
    await admin.execute(f"ALTER DATABASE {one.name} RENAME TO {one.name}_was")
    await admin.execute(f"ALTER DATABASE {other.name} RENAME TO {one.name}")
    await admin.execute(f"ALTER DATABASE {one.name}_was RENAME TO {other.name}")
    await admin.execute(f"ALTER DATABASE {other.name} ALLOW_CONNECTIONS true")


@pytest.mark.prove
@NEW_CLIENTS
async def test_database_is_swapped_under_a_daemon(
    daemon: Daemon, empty: Database, tmp_path: Path, held: list[Erasures]
) -> None:
    async with client_session() as session:
        alice, bob = (Client(daemon, session, user) for user in ("alice", "bob"))
        await alice.init()
        key = (await bob.init()).json
        backup(daemon.database, empty, tmp_path)
        await erase(daemon, "alice")
        await eventually(lambda: held[0].names("alice"))
        answers: list[int] = []

        async def insist() -> None:
            while True:
                answers.append((await alice.key()).status)

        insisting = asyncio.create_task(insist())
        await swap(daemon.database, empty)
        assert await daemon.database.value(VAULTS) == ["alice", "bob"]
        await becomes(daemon, 503, erasures=CURE)
        assert refused(await bob.key())
        await replay(daemon, "--yes")
        await becomes(daemon, 200)
        await eventually(lambda: answers[-1] == 404)
        insisting.cancel()
        assert set(answers) == {404, 503}
        assert (await bob.key()).json == key


@pytest.mark.prove
async def test_rows_are_from_before_and_nothing_shows_it(
    database: Database,
    issuer: Issuer,
    record: Path,
    held: list[Erasures],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No connection is lost and no look is due: the request itself is held against the database."""
    monkeypatch.setattr(health, "_AGAIN_SECONDS", 3600.0)
    async with (
        serving(database, issuer, record.parent, record) as daemon,
        client_session() as session,
    ):
        alice, bob = (Client(daemon, session, user) for user in ("alice", "bob"))
        await alice.init()
        key = (await bob.init()).json
        await database.execute("CREATE TABLE kept AS TABLE auth.encryption_vaults")
        await erase(daemon, "alice")
        await eventually(lambda: held[0].names("alice"))
        assert (await alice.key()).status == 404
        assert (await readiness(daemon))[0] == 200
        for call in (alice.key, alice.init, alice.rotate, alice.status, alice.audit):
            async with past_triggers(database) as admin:
                await admin.execute(
                    "DELETE FROM auth.encryption_vault_audit WHERE action = 'erase';"
                    "INSERT INTO auth.users (id) VALUES ('alice');"
                    "INSERT INTO auth.encryption_vaults SELECT * FROM kept WHERE user_id = 'alice'"
                )
            assert refused(await call())
            await becomes(daemon, 503, erasures=CURE)
            assert refused(await bob.key())
            await replay(daemon, "--yes")
            await becomes(daemon, 200)
            assert (await alice.key()).status == 404
        assert (await bob.key()).json == key


@pytest.mark.prove
async def test_erasure_under_way_shuts_nobody_out_and_a_killed_one_does(
    daemon: Daemon, database: Database, record: Path
) -> None:
    async with client_session() as session:
        alice, bob = (Client(daemon, session, user) for user in ("alice", "bob"))
        await alice.init()
        key = (await bob.init()).json
        await database.execute(SLOW)
        killed = Command(variables(daemon), "users", "erase", "alice", "--yes")
        await eventually(lambda: database.value(WAITING))
        assert len(lines_of(record)) == 1
        with capture_logs() as logged:
            await asyncio.sleep(3 * AGAIN)
            assert (await readiness(daemon))[0] == 200
        assert [one["event"] for one in logged if "erasure" in one["event"]] == []

        for words in (("users", "replay-erasures", "--dry-run"), ("verify",)):
            done = await command(daemon, *words)
            assert (done.code, "is being made at this moment" in done.complaint) == (75, True)

        killed.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(killed.end)
        # The server would notice when it is done.
        await database.value(END_IT)
        await database.execute(FAST)
        assert (await database.value(VAULTS), await database.value(ERASURES)) == (
            ["alice", "bob"],
            0,
        )
        await becomes(daemon, 503, erasures=CURE)
        assert refused(await alice.key())
        await replay(daemon, "--yes")
        await becomes(daemon, 200)
        assert (await alice.key()).status == 404
        assert (await bob.key()).json == key


@pytest.mark.prove
@NEW_CLIENTS
async def test_replay_is_killed_and_run_again(
    daemon: Daemon, empty: Database, tmp_path: Path
) -> None:
    users = [f"user-{number}" for number in range(4)]
    async with client_session() as session:
        for user in users:
            await Client(daemon, session, user).init()
    backup(daemon.database, empty, tmp_path)
    for user in users:
        await erase(daemon, user)
    await empty.execute(SLOW)
    words = ("users", "replay-erasures", "--yes")
    killed = Command(variables(daemon, empty), *words)
    await eventually(lambda: empty.value(WAITING))
    killed.process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(killed.end)
    await empty.value(END_IT)
    await empty.execute(FAST)
    assert await empty.value(VAULTS) == users[2:]
    # Two at once share what is left, and neither stumbles over the other.
    said = await asyncio.gather(*(replay(daemon, "--yes", database=empty) for _ in range(2)))
    assert all("were made again" in one for one in said)
    assert (await empty.value(VAULTS), await empty.value(ERASURES)) == ([], len(users))


@pytest.mark.prove
async def test_erasures_at_once(daemon: Daemon, record: Path) -> None:
    users = [f"user-{number}" for number in range(4)]
    async with client_session() as session:
        for user in users:
            await Client(daemon, session, user).init()
    await asyncio.gather(*(erase(daemon, user) for user in users))
    assert sorted(str(line["user"]) for line in lines_of(record)) == users
    assert await replay(daemon, "--dry-run") == "0 of 4 erasures on record are due\n"


@pytest.mark.parametrize("words", [("erase", "alice"), ("replay-erasures",)])
async def test_needs_to_be_meant(words: tuple[str, ...]) -> None:
    done = await asyncio.to_thread(custody, {}, "users", *words)
    assert (done.code, "--yes" in done.err) == (2, True)


@pytest.mark.prove
async def test_what_can_not_be_recorded_is_not_erased(
    daemon: Daemon, database: Database, record: Path
) -> None:
    async with client_session() as session:
        await Client(daemon, session, "alice").init()
    for place, why in (("none/erasures", "there is no"), (".", "Is a directory")):
        environ = {**variables(daemon), "CUSTODY_ERASURE_RECORD": str(record.parent / place)}
        done = await asyncio.to_thread(custody, environ, "users", "erase", "alice", "--yes")
        assert (done.code, why in done.complaint) == (78, True), done.err
        assert await database.value(VAULTS) == ["alice"]
        assert await database.value(ERASURES) == 0
    # Who was never there leaves no line.
    assert (await command(daemon, "users", "erase", "nobody", "--yes")).code == 1
    assert written(record) == ""


async def test_disk_is_full_or_another_command_stuck(
    daemon: Daemon, database: Database, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, write_some = Dsn(database.url("custody_owner")), os.pwrite

    def fill(descriptor: int, line: bytes, at: int) -> int:
        if len(line) < 60:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_some(descriptor, line[:50], at)

    async with client_session() as session:
        alice = Client(daemon, session, "alice")
        key = (await alice.init()).json
        write(record, '{"id": "one", "user": "bob", "action": "erase"}\n')
        before = written(record)
        with monkeypatch.context() as patch:
            patch.setattr("os.pwrite", fill)
            with pytest.raises(RecordError, match="No space left"):
                await erase_user(owner, Erasure("two", "alice"), record)
        monkeypatch.setattr("custody.db.erasure_record._LOCK_SECONDS", 0.1)
        with record.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            with pytest.raises(RecordError, match="is locked by another command"):
                await erase_user(owner, Erasure("two", "alice"), record)
        assert written(record) == before
        assert await database.value(ERASURES) == 0
        await replay(daemon, "--yes")
        await becomes(daemon, 200)
        assert (await alice.key()).json == key


@pytest.mark.prove
async def test_another_audit_row_under_the_id_is_no_erasure(
    daemon: Daemon, database: Database, record: Path
) -> None:
    async with client_session() as session:
        alice = Client(daemon, session, "alice")
        await alice.init()
        row = await database.value("SELECT id FROM auth.encryption_vault_audit")
        write(record, json.dumps({"id": row, "user": "alice", "action": "erase"}) + "\n")
        await becomes(daemon, 503, erasures=CURE)
        assert refused(await alice.key())
    done = await command(daemon, "users", "replay-erasures", "--yes")
    assert (done.code, "other audit rows stand under their ids" in done.complaint) == (1, True)
    assert await database.value(VAULTS) == ["alice"]


@pytest.mark.prove
async def test_lines_of_an_export_are_a_record(daemon: Daemon, record: Path) -> None:
    async with client_session() as session:
        await Client(daemon, session, "alice").init()
    await erase(daemon, "alice")
    exported = await command(daemon, "audit", "export")
    lines = [line for line in exported.out.splitlines() if '"action": "erase"' in line]
    (ours,) = lines_of(record)
    (theirs,) = [json.loads(line) for line in lines]
    assert {name: theirs[name] for name in ours} == {**ours, "at": theirs["at"]}
    write(record, "\n".join(lines) + "\n")
    assert await replay(daemon, "--dry-run") == "0 of 1 erasures on record are due\n"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        pytest.param(lambda path: path.unlink(), "touch ", id="missing"),
        pytest.param(
            lambda path: path.write_text('{"id": \n' * 2),
            "line 1 of",
            id="damaged",
            marks=pytest.mark.prove,
        ),
        pytest.param(
            lambda path: path.chmod(0o602), "chmod o-w", id="anybody's", marks=pytest.mark.prove
        ),
    ],
)
async def test_record_that_is_not_to_be_relied_on(
    daemon: Daemon, record: Path, tmp_path: Path, spoil: Callable[[Path], object], why: str
) -> None:
    """It ends a boot, and shuts a daemon that runs until it is mended."""
    async with client_session() as session:
        alice = Client(daemon, session, "alice")
        key = (await alice.init()).json
        spoil(record)
        await becomes(daemon, 503, erasures=why)
        assert refused(await alice.key())
        with pytest.raises(ConfigurationError, match=why):
            async with serving(daemon.database, daemon.issuer, tmp_path, record):
                pass
        for words in (("verify",), ("users", "replay-erasures", "--yes")):
            done = await command(daemon, *words)
            assert (done.code, why in done.complaint) == (78, True)
        # With its cure on a line of its own.
        problem = done.complaint.partition("; run: ")[0]
        assert f"ERROR   erasures: {problem}" in (await command(daemon, "doctor")).out
        begin_anew(record)
        await becomes(daemon, 200)
        assert (await alice.key()).json == key


@pytest.mark.prove
async def test_torn_last_line(daemon: Daemon, record: Path) -> None:
    """Its erasure was never made: said, and taken away by the next one."""
    async with client_session() as session:
        alice, bob = (Client(daemon, session, user) for user in ("alice", "bob"))
        await alice.init()
        await bob.init()
        await erase(daemon, "alice")
        whole = written(record)
        write(record, whole + whole[:40])

        async def degraded() -> bool:
            async with session.get(f"{daemon.admin}/readyz") as response:
                said = await response.json()
                assert response.status == 200
                return "was cut off in writing" in said.get("degraded", {}).get("erasures", "")

        await eventually(degraded)
        done = await command(daemon, "users", "replay-erasures", "--dry-run")
        assert (done.code, done.complaint) == (
            0,
            "the last line of the record was cut off in writing: that erasure was not made",
        )
        await erase(daemon, "bob")
        assert written(record).startswith(whole)
        assert len(lines_of(record)) == 2
        assert (await readiness(daemon))[0] == 200
