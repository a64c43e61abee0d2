"""``custody audit follow``: every row to its target, in order, whatever happens to it meanwhile."""

import asyncio
import errno
import json
import os
import secrets
import shutil
import signal
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from custody.audit import follower, reading
from custody.audit.export import FORMATS, Line
from custody.audit.export_file import ExportFile
from custody.audit.exported import as_object
from custody.audit.follower import Follower
from custody.audit.place_file import place_file
from custody.audit.reading import Reader
from custody.audit.targets import datagrams, stream
from custody.audit.targets.journal import JournalTarget, entry
from custody.audit.targets.syslog import MAX_LENGTH, message
from custody.audit.targets.target import Target, TargetDown, TargetUnfit
from custody.cli.commands.audit_follow import _target
from custody.settings.export_target import ExportTarget
from tests.audit_log import AuditLog
from tests.audit_targets import (
    DatagramServer,
    SyslogServer,
    Told,
    content_of,
    dying,
    fields_of,
    first_times,
    kept_row,
    numbers,
)
from tests.certificates import make_certificate
from tests.client import Client, client_session
from tests.db.command import Command, Done, custody
from tests.db.connecting import engine_of
from tests.eventually import eventually
from tests.faulty_proxy import Fault, faulty_proxy
from tests.ports import free_port
from tests.servers import Database, daemon_here
from tests.tokens import Issuer

ROW = {
    "number": 7,
    "id": "an-id",
    "user_id": "alice",
    "action": "fetch",
    "context": None,
    "status": 200,
    "ip_address": None,
    "user_agent": "agent",
    "created_at": (0).to_bytes(8, "big"),
    "state": None,
    "seal": None,
}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(follower, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(follower, "LONGEST_PAUSE_SECONDS", 0.1)


@pytest.fixture
def log(database: Database) -> AuditLog:
    return AuditLog(database)


class Following:
    """A follower, and what it has told."""

    def __init__(self, state: Path) -> None:
        self.told, self.state = Told(), state
        self.events: list[Any] = []

    def logged(self, name: str) -> list[Any]:
        return [event for event in self.events if event["event"] == name]


@asynccontextmanager
async def following(
    log: AuditLog, uri: str, state: Path, *, url: str = "", target: Target | None = None
) -> AsyncIterator[Following]:
    """Follow to a target for the length of the block, in this process; then it is killed."""
    to, made = ExportTarget.parse(uri), Following(state)
    async with engine_of(url or log.database.url("custody_owner")) as engine:
        with place_file(state, uri) as kept, capture_logs() as made.events:
            one = Follower(
                Reader(engine), FORMATS[to.format_], target or _target(to), kept, made.told
            )
            task = asyncio.create_task(one.follow("CUSTODY_AUDIT_DATABASE_URL"))
            try:
                yield made
                assert not task.done(), task.exception()
            finally:
                task.cancel()
                await asyncio.wait({task})


def rows_of(path: Path) -> list[int]:
    """Return the rows of a file, whose lines are all whole; none where it is not there."""
    if not path.exists():
        return []
    text = path.read_text("utf-8")
    assert text.endswith("\n") or not text
    return numbers(text.splitlines())


def has(look: Callable[[], list[int]], *expected: int) -> Callable[[], bool]:
    return lambda: look() == list(expected)


# ── a file ────────────────────────────────────────────────────────────────────


async def test_a_file(log: AuditLog, tmp_path: Path) -> None:
    """What there is, then each row as it comes, and the checkpoints behind theirs."""
    file, state = tmp_path / "audit.jsonl", tmp_path / "state"
    await log.grow(1, 2)
    async with following(log, f"file:{file}", state) as one:
        await eventually(has(lambda: rows_of(file), 1, 2))
        await log.write(log.event())
        await eventually(has(lambda: rows_of(file), 1, 2, 3))
        await log.seal()
        await eventually(lambda: len(file.read_text("utf-8").splitlines()) == 5)
        await eventually(lambda: one.told.said == "row 3 | 0 behind")
        assert one.told.is_ready
        assert one.told.pings > 1
        assert one.logged("audit_export_begins") == [
            {"event": "audit_export_begins", "row": None, "log_level": "info"}
        ]
    kinds = ["number" in json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert kinds == [True, True, False, True, False]
    os.umask(umask := os.umask(0))
    assert stat.S_IMODE(file.stat().st_mode) == 0o640 & ~umask
    # It goes on by what the file says, without a place that was kept, and sends nothing twice.
    state.unlink()
    await log.write(log.event())
    async with following(log, f"file:{file}", state):
        await eventually(has(lambda: rows_of(file), 1, 2, 3, 4))


async def test_a_file_of_events(log: AuditLog, tmp_path: Path) -> None:
    file = tmp_path / "audit.ocsf"
    await log.grow(1, 2)
    async with following(log, f"file:{file}?format=ocsf", tmp_path / "state"):
        await eventually(lambda: file.exists() and file.read_text("utf-8").count("\n") == 2)
    assert json.loads(file.read_text("utf-8").splitlines()[1])["metadata"]["sequence"] == 2


async def test_a_disk_that_is_full_for_a_while(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a line is there then: it is cut off, and the row comes whole."""
    file = tmp_path / "audit.jsonl"
    write, left = ExportFile.write, [3]

    def fail(self: ExportFile, text: str) -> None:
        if not left[0]:
            return write(self, text)
        left[0] -= 1
        write(self, text[:40])
        monkeypatch.setattr(os, "write", no_space)
        try:
            write(self, text[40:])
        finally:
            monkeypatch.undo()
            monkeypatch.setattr(ExportFile, "write", fail)
            monkeypatch.setattr(follower, "POLL_SECONDS", 0.02)
        return None

    def no_space(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with following(log, f"file:{file}", tmp_path / "state") as one:
        await eventually(lambda: one.told.is_ready)
        monkeypatch.setattr(ExportFile, "write", fail)
        await log.write(log.event(), log.event())
        await eventually(lambda: one.logged("audit_export_goes_on"))
        assert rows_of(file) == [1, 2]
        (waits,) = one.logged("audit_export_waits")
    assert waits["reason"] == f"{file} could not be written: No space left on device"
    assert waits["behind"] == 2


@pytest.mark.parametrize("at", ["before", "meanwhile"])
async def test_a_file_is_moved_away(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """As logrotate does: also while lines are added, which may be compressed without them then."""
    file, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    sync = ExportFile.sync

    def move(self: ExportFile) -> None:
        if not old.exists():
            file.rename(old)
        sync(self)

    async with following(log, f"file:{file}", tmp_path / "state"):
        await log.write(log.event())
        await eventually(has(lambda: rows_of(file), 1))
        if at == "before":
            file.rename(old)
        else:
            monkeypatch.setattr(ExportFile, "sync", move)
        await log.write(log.event())
        await eventually(has(lambda: rows_of(file), 2))
        assert first_times([*rows_of(old), *rows_of(file)]) == [1, 2]


async def test_a_file_is_copied_and_cut(log: AuditLog, tmp_path: Path) -> None:
    """What was added between the two, in neither the copy nor the file, is sent again."""
    file, copy = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    async with following(log, f"file:{file}", tmp_path / "state") as one:
        await log.write(log.event())
        await eventually(has(lambda: rows_of(file), 1))
        shutil.copy(file, copy)
        await log.write(log.event())
        await eventually(has(lambda: rows_of(file), 1, 2))
        os.truncate(file, 0)
        await log.write(log.event())
        await eventually(lambda: rows_of(file)[-2:] == [2, 3])
        assert first_times([*rows_of(copy), *rows_of(file)]) == [1, 2, 3]
        assert one.logged("audit_export_waits")[0]["reason"] == f"{file} was cut by somebody else"


async def test_a_file_is_cut_while_it_is_added_to(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was added behind the cut must not say that all before it is out."""
    file, sync = tmp_path / "audit.jsonl", ExportFile.sync

    async with following(log, f"file:{file}", tmp_path / "state"):
        await log.write(log.event())
        await eventually(has(lambda: rows_of(file), 1))

        def cut(self: ExportFile) -> None:
            monkeypatch.setattr(ExportFile, "sync", sync)
            added = file.read_bytes().splitlines(keepends=True)[-1]
            file.write_bytes(added)
            sync(self)

        monkeypatch.setattr(ExportFile, "sync", cut)
        await log.write(log.event())
        await eventually(has(lambda: rows_of(file), 1, 2))


async def test_a_new_file_is_no_reason_to_begin_anew(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host is started anew behind a rotation: the place was kept."""
    monkeypatch.setattr(follower, "GRACE_SECONDS", 0)
    file, state = tmp_path / "audit.jsonl", tmp_path / "state"
    await log.grow(1, 3)
    async with following(log, f"file:{file}", state):
        await eventually(lambda: kept_row(state) == 3)
    file.unlink()
    await log.write(log.event())
    await log.seal()
    async with following(log, f"file:{file}", state) as one:
        await eventually(lambda: file.exists() and file.read_text("utf-8").count("\n") == 2)
        assert rows_of(file) == [4]
        assert one.logged("audit_export_begins")[0]["row"] == 3
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    # Torn there, too: a checkpoint alone, behind which no row is.
    checkpoint = file.read_text("utf-8").splitlines(keepends=True)[1]
    file.write_text(f'{checkpoint}{{"numb', "utf-8")
    await log.write(log.event())
    async with following(log, f"file:{file}", state):
        await eventually(lambda: rows_of(file)[-1:] == [5])
    assert set(rows_of(file)) <= {4, 5}


# ── syslog ────────────────────────────────────────────────────────────────────


async def test_syslog_by_tcp(log: AuditLog, tmp_path: Path) -> None:
    server, state = SyslogServer(free_port()), tmp_path / "state"
    await log.grow(1, 2)
    async with following(log, f"syslog://127.0.0.1:{server.port}", state) as one:
        await eventually(lambda: one.logged("audit_export_waits"))
        assert one.told.is_ready
        assert "Connect call failed" in one.told.said or "refused" in one.told.said
        await server.start()
        await eventually(lambda: len(server.lines) == 3)
        # Between two rows: the next one goes to nobody.
        server.die()
        await log.write(log.event())
        await server.start()
        await eventually(lambda: first_times(numbers(server.lines)) == [1, 2, 3])
    server.die()
    row = await log.database.fetch("SELECT id FROM auth.encryption_vault_audit WHERE number = 1")
    assert json.loads(server.lines[0])["id"] == row[0]["id"]


async def test_what_a_syslog_server_took_and_had_not_read(log: AuditLog, tmp_path: Path) -> None:
    """Its host has acknowledged it, and its process dies: no protocol says so, and it comes."""
    server, uri = SyslogServer(free_port()), "syslog://127.0.0.1:"
    await server.start()
    async with following(log, f"{uri}{server.port}", tmp_path / "state") as one:
        await log.write(log.event())
        await eventually(lambda: numbers(server.lines) == [1])
        server.reads.clear()
        await log.write(log.event(), log.event())
        await eventually(lambda: one.told.said == "row 3 | 0 behind")
        server.die()
        assert numbers(server.lines) == [1]
        await server.start()
        await eventually(lambda: first_times(numbers(server.lines)) == [1, 2, 3])
    server.die()


async def test_a_syslog_server_that_hangs(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "TAKE_SECONDS", 0.1)
    server = SyslogServer(free_port())
    server.reads.clear()
    await server.start()
    uri, agent = f"syslog://127.0.0.1:{server.port}", "a" * 512
    async with following(log, uri, tmp_path / "state") as one:
        await log.write(*(log.event(user_agent=agent) for _ in range(8000)))
        await eventually(lambda: one.logged("audit_export_waits"))
        assert "has taken nothing for" in one.told.said
        server.reads.set()
        monkeypatch.setattr(stream, "TAKE_SECONDS", 10)
        await eventually(lambda: first_times(numbers(server.lines)) == list(range(1, 8001)))
    server.die()


async def test_syslog_by_tls(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = make_certificate(tmp_path / "tls")
    server = SyslogServer(free_port(), (cert, key))
    await server.start()
    await log.write(log.event())
    uri = f"syslog+tls://127.0.0.1:{server.port}"
    async with following(log, uri, tmp_path / "state") as one:
        await eventually(lambda: "certificate does not verify" in one.told.said)
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        await eventually(lambda: numbers(server.lines) == [1])
        server.die()
        await log.write(log.event())
        await server.start()
        await eventually(lambda: first_times(numbers(server.lines)) == [1, 2])
    server.die()


async def test_syslog_by_a_socket(log: AuditLog, tmp_path: Path) -> None:
    """Its queue is full soon, and holds up the follower; then it is ended, and the queue lost."""
    found: list[str] = []

    def take() -> list[int]:
        found.extend(content_of(one) for one in server.take())
        return first_times(numbers(found))

    with dying(DatagramServer(tmp_path / "log")) as server:
        await log.write(*(log.event() for _ in range(500)))
        async with following(log, f"syslog:{server.path}", tmp_path / "state") as one:
            await eventually(lambda: len(take()) > 20)
            server.die()
            await eventually(lambda: one.logged("audit_export_waits"))
            server.start()
            await eventually(lambda: len(take()) == 500)
    assert first_times(numbers(found)) == list(range(1, 501))


async def test_a_socket_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "TAKE_SECONDS", 0.05)
    with dying(DatagramServer(tmp_path / "log")) as server:
        target = _target(ExportTarget.parse(f"syslog:{server.path}"))
        await target.open()
        line = Line(json.dumps(as_object(ROW)), 7, ROW)
        with pytest.raises(TargetDown, match="has taken nothing for"):
            await target.send([line] * 2000)
        target.close()


def test_a_message_of_syslog() -> None:
    line = Line(json.dumps(as_object(ROW)), 7, ROW)
    assert message(line).startswith(b"<110>1 2000-01-01T00:00:00.000000Z ")
    assert json.loads(content_of(message(line))) == as_object(ROW)
    assert b" custody %d checkpoint - {}" % os.getpid() in message(Line("{}", 1, None))
    # A time that PostgreSQL alone has, and a row that no daemon has written.
    odd = ROW | {"created_at": (2**63 - 1).to_bytes(8, "big"), "user_agent": "a\n" * MAX_LENGTH}
    long = Line(json.dumps(as_object(odd)), 7, odd)
    assert message(long).startswith(b"<110>1 - ")
    said = json.loads(content_of(message(long)))
    assert (said["number"], said["tooLong"], len(said["sha256"])) == (7, len(long.text), 64)


@pytest.mark.parametrize("format_", list(FORMATS))
def test_any_row_of_a_daemon_fits_into_a_message(format_: str) -> None:
    """With the longest user and user agent that there are, of letters that JSON makes long."""
    long = "\U0001f511"
    row = ROW | {
        "user_id": long * 255,
        "user_agent": long * 512,
        "ip_address": "f" * 45,
        "context": "c" * 40,
        "state": "s" * 64,
        "seal": b"s" * 64,
        "id": "i" * 36,
        "action": "recovery_clear",
        "number": 2**63 - 1,
    }
    assert len(json.dumps(FORMATS[format_].of_row(row))) <= MAX_LENGTH


# ── the journal ───────────────────────────────────────────────────────────────


async def test_the_journal(log: AuditLog, tmp_path: Path) -> None:
    """A row that is too large for a datagram comes as a file; no value is another field."""
    odd = "a\nPRIORITY=0\n=\x1b"
    found: list[dict[str, str]] = []
    await log.write(log.event(), log.event(user_id=odd, user_agent="b" * 400_000), sealed=False)
    await log.seal()
    with dying(DatagramServer(tmp_path / "journal")) as server:
        target = JournalTarget(str(server.path))
        async with following(log, "journal:", tmp_path / "state", target=target):

            def take() -> int:
                found.extend(map(fields_of, server.take()))
                return len(found)

            await eventually(lambda: take() == 3)
    rows = await log.database.fetch("SELECT id FROM auth.encryption_vault_audit ORDER BY number")
    assert [one.get("CUSTODY_AUDIT_ID") for one in found] == [*(row["id"] for row in rows), None]
    first, second, checkpoint = found
    assert numbers(one["MESSAGE"] for one in found) == [1, 2]
    assert (first["PRIORITY"], first["SYSLOG_IDENTIFIER"]) == ("6", "custody-audit")
    assert (second["PRIORITY"], second["CUSTODY_AUDIT_USER"]) == ("6", odd)
    assert first["CUSTODY_AUDIT_NUMBER"] == "1"
    assert checkpoint["CUSTODY_AUDIT_CHECKPOINT"] == "1"


def test_an_entry_has_nothing_beside_its_fields() -> None:
    line = Line("text", 7, ROW)
    assert entry(line).startswith(b"MESSAGE\n\x04\0\0\0\0\0\0\0text\nPRIORITY\n")
    assert fields_of(entry(line))["CUSTODY_AUDIT_ACTION"] == "fetch"


# ── the database ──────────────────────────────────────────────────────────────


async def test_a_database_that_is_away(log: AuditLog, tmp_path: Path) -> None:
    """From the start, and later."""
    file = tmp_path / "audit.jsonl"
    with faulty_proxy(log.database.server.port) as proxy:
        proxy.fault = Fault.REFUSE
        url = log.database.url("custody_owner").replace(
            f":{log.database.server.port}/", f":{proxy.port}/"
        )
        async with following(log, f"file:{file}", tmp_path / "state", url=url) as one:
            await eventually(lambda: one.logged("audit_export_waits"))
            assert not one.told.is_ready
            proxy.fault = Fault.NONE
            await log.write(log.event())
            await eventually(has(lambda: rows_of(file), 1))
            assert one.told.is_ready
            proxy.fault = Fault.REFUSE
            await log.write(log.event())
            await eventually(lambda: len(one.logged("audit_export_waits")) == 2)
            proxy.fault = Fault.NONE
            await eventually(has(lambda: rows_of(file), 1, 2))
            await eventually(lambda: len(one.logged("audit_export_goes_on")) == 2)


async def test_a_log_that_has_become_shorter(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written in place of lost rows comes, though its numbers were sent already."""
    monkeypatch.setattr(follower, "PAGE", 2)
    monkeypatch.setattr(reading, "PAGE", 2)
    file = tmp_path / "audit.jsonl"
    async with following(log, f"file:{file}", tmp_path / "state") as one:
        await log.write(*(log.event() for _ in range(5)))
        await eventually(has(lambda: rows_of(file), 1, 2, 3, 4, 5))
        async with log.database.connect() as connection, connection.transaction():
            await connection.execute("DELETE FROM auth.encryption_vault_audit WHERE number > 2")
            await connection.execute("SELECT setval('auth.encryption_vault_audit_number_seq', 2)")
        await eventually(lambda: one.logged("audit_export_shorter"))
        await log.write(log.event(user_id="new"))
        await eventually(lambda: rows_of(file)[-1] == 3)
        assert one.logged("audit_export_shorter")[0]["row"] == 5
    assert json.loads(file.read_text("utf-8").splitlines()[-1])["user"] == "new"


async def test_no_row_before_one_that_is_still_to_come(log: AuditLog, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    add = (
        "INSERT INTO auth.encryption_vault_audit (id, user_id, action, status)"
        " VALUES ($1, 'u', 'fetch', 200)"
    )
    async with following(log, f"file:{file}", tmp_path / "state") as one:
        await eventually(lambda: one.told.is_ready)
        async with log.database.connect("custody_owner") as slow, slow.transaction():
            await slow.execute("SELECT set_config('app.current_user_id', 'u', true)")
            await slow.execute(add, "late")
            await log.write(log.event())
            await asyncio.sleep(0.3)
            assert rows_of(file) == []
        await eventually(has(lambda: rows_of(file), 1, 2))


# ── the command ───────────────────────────────────────────────────────────────


@pytest.fixture
async def auditor(database: Database) -> AsyncIterator[str]:
    """The URL of a login that is custody_audit, and no more."""
    login = f"auditor_{secrets.token_hex(4)}"
    await database.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'x' IN ROLE custody_audit")
    owner = database.url("custody_owner")
    yield f"postgresql://{login}:x@{owner.partition('@')[2]}"
    await database.execute(f"DROP ROLE {login}")


def environ(url: str, uri: str | None, **more: str) -> dict[str, str]:
    made = {"CUSTODY_AUDIT_DATABASE_URL": url, **more}
    return made if uri is None else made | {"CUSTODY_AUDIT_EXPORT": uri}


async def refusal(url: str, uri: str | None, state: Path, **more: str) -> str:
    words = "audit", "follow", "--state", str(state)
    done = await asyncio.to_thread(custody, environ(url, uri, **more), *words)
    assert done.code == 78, done
    return done.complaint


async def test_what_ends_it_at_once(auditor: str, database: Database, tmp_path: Path) -> None:
    state, file = tmp_path / "state", tmp_path / "audit.jsonl"
    assert "CUSTODY_AUDIT_EXPORT must be set" in await refusal(auditor, None, state)
    said = await refusal(auditor, "syslog://192.0.2.1:514", state)
    assert said.endswith("use syslog+tls://, or allow it: CUSTODY_ALLOW_PLAIN=syslog")
    said = await refusal(auditor, f"file:{tmp_path}/none/audit.jsonl", state)
    assert said == f"{tmp_path}/none/audit.jsonl can't be opened: No such file or directory"
    said = await refusal(auditor, f"file:{file}", tmp_path / "none" / "state")
    assert said.endswith("state.lock can't be opened: No such file or directory")
    said = await refusal(database.url("custody_app"), f"file:{file}", state)
    assert "this role does not see the whole audit" in said
    file.write_text("precious\n", "utf-8")
    said = await refusal(auditor, f"file:{file}", state)
    assert said == f"{file} is no export of this format; name another file"
    assert file.read_text("utf-8") == "precious\n"


async def test_a_disk_that_is_not_there_yet(log: AuditLog, tmp_path: Path) -> None:
    """At a start it is no mistake of the configuration, once the file was written."""
    disk, state = tmp_path / "disk", tmp_path / "state"
    disk.mkdir()
    async with following(log, f"file:{disk}/audit.jsonl", state):
        await eventually(lambda: kept_row(state))
    disk.rename(tmp_path / "away")
    async with following(log, f"file:{disk}/audit.jsonl", state) as one:
        await eventually(lambda: "can't be opened" in one.told.said)
        (tmp_path / "away").rename(disk)
        await log.write(log.event())
        await eventually(has(lambda: rows_of(disk / "audit.jsonl"), 1))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"target": "x", "row": "1", "checkpoint": 1}'])
def test_a_place_that_is_none(tmp_path: Path, content: str) -> None:
    state = tmp_path / "state"
    state.write_text(content, "utf-8")
    with place_file(state, "journal:") as kept, pytest.raises(TargetUnfit, match="says no place"):
        kept.read()


def test_the_place_of_another_target_is_none(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text('{"target": "journal:", "row": 5, "checkpoint": null}', "utf-8")
    with place_file(state, "syslog:") as kept:
        assert kept.read() is None


async def test_two_of_them(log: AuditLog, auditor: str, tmp_path: Path) -> None:
    state, file = tmp_path / "state", tmp_path / "audit.jsonl"
    await log.write(log.event())
    async with following(log, f"file:{file}", state):
        await eventually(has(lambda: rows_of(file), 1))
        said = await refusal(auditor, f"file:{file}", state)
        assert said == f"{state}: another follower goes by it"
        said = await refusal(auditor, f"file:{file}", tmp_path / "other")
        assert said == f"{file}: another export writes it"


async def test_sigterm_ends_it(log: AuditLog, auditor: str, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    await log.write(log.event())

    def ended(number: int) -> Done:
        os.kill(command.process.pid, number)
        return command.end()

    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        words = "audit", "follow", "--state", str(tmp_path / "state")
        command = Command(environ(auditor, f"file:{file}"), *words)
        await log.write(log.event())
        last = await log.database.value("SELECT max(number) FROM auth.encryption_vault_audit")
        await eventually(has(lambda: rows_of(file)[-1:], last))
        done = await asyncio.to_thread(ended, number)
        assert done.code == code, done
    assert rows_of(file) == [1, 2, 3]


async def test_the_daemon_has_nothing_to_do_with_it(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """It serves keys, and opens no target, whatever that is."""
    file = tmp_path / "none" / "audit.jsonl"
    async with (
        daemon_here(database, issuer, tmp_path, AUDIT_EXPORT=f"file:{file}") as daemon,
        client_session() as session,
    ):
        assert (await Client(daemon, session, "alice").init()).status == 200
        assert not file.exists()
