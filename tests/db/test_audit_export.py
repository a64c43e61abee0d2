"""``custody audit export``: each row once and in order, gone on with, in JSON Lines and OCSF."""

import asyncio
import errno
import json
import os
import stat
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from custody.audit import reading
from custody.audit.events import Action
from custody.audit.export import FORMATS, Export, Place, Span, text_of
from custody.audit.export_file import FileLost, export_file
from custody.audit.reading import Reader
from tests.audit_log import AuditLog
from tests.client import Client, client_session
from tests.db.command import Done, custody
from tests.db.connecting import engine_of
from tests.eventually import eventually
from tests.forked import Forked
from tests.servers import Database, daemon_here
from tests.tokens import Issuer

ODD = 'a\x1b[31mb\nc\u202ed\u2028e\x9b2J"\\é\U0001f511'
ADD = (
    "INSERT INTO auth.encryption_vault_audit (id, user_id, action, status)"
    " VALUES ($1, 'u', 'fetch', 200)"
)


async def export(database: Database, *words: str) -> Done:
    environ = {"CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner")}
    return await asyncio.to_thread(custody, environ, "audit", "export", *words)


def places(text: str) -> list[int | str]:
    """Return the lines in order: rows by their numbers, checkpoints as "c" and theirs."""
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    return [one["number"] if "number" in one else f"c{one['checkpoint']}" for one in lines]


def numbers(text: str) -> list[int]:
    return [one for one in places(text) if isinstance(one, int)]


@pytest.fixture
async def log(database: Database) -> AuditLog:
    """Two checkpoints over two rows each, and a row that is under none: numbers 1 to 5."""
    made = AuditLog(database)
    await made.grow(2, 2)
    await made.write(made.event())
    return made


WHOLE = [1, 2, "c1", 3, 4, "c2", 5]


async def test_all_of_it(log: AuditLog) -> None:
    done = await export(log.database)
    assert (done.code, places(done.out)) == (0, WHOLE)
    assert done.complaint == "the next export goes on with: --since 5"
    first, third = (json.loads(done.out.splitlines()[at]) for at in (0, 2))
    (row,) = await log.database.fetch("SELECT * FROM auth.encryption_vault_audit WHERE number = 1")
    assert first == {
        "number": 1,
        "id": row["id"],
        "at": row["created_at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "user": row["user_id"],
        "action": row["action"],
        "context": row["context"],
        "status": 200,
        "ipAddress": row["ip_address"],
        "userAgent": row["user_agent"],
        "state": None,
        "seal": row["seal"].hex(),
    }
    assert third == {"checkpoint": 1, "size": 2, "lastRow": 2, "note": log.notes[0]}


async def test_nothing(database: Database) -> None:
    done = await export(database)
    assert (done.code, done.out, done.complaint) == (0, "", "no row was exported")


async def test_an_exported_note_verifies(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """By what c2sp.org/signed-note says alone, with the key that the command shows."""
    async with (
        daemon_here(database, issuer, tmp_path, AUDIT_SEAL_INTERVAL="1") as daemon,
        client_session() as session,
    ):
        await Client(daemon, session, "alice").init()
        there = "SELECT count(*) FROM auth.encryption_audit_checkpoints"
        await eventually(lambda: database.value(there))
        environ = {
            **daemon.settings,
            "CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner"),
        }
        keys = await asyncio.to_thread(custody, environ, "audit", "key")
    done = await export(database)
    assert (keys.code, done.code) == (0, 0)
    name, hint, key = keys.out.strip().split("+", 2)
    row, checkpoint = map(json.loads, done.out.splitlines())
    text, signature = checkpoint["note"].split("\n\n", 1)
    word, by, encoded = signature.split()
    assert (word, by) == ("\u2014", name)
    said = b64decode(encoded)
    assert said[:4].hex() == hint
    public = Ed25519PublicKey.from_public_bytes(b64decode(key)[1:])
    public.verify(said[4:], f"{text}\n".encode())
    assert (checkpoint["lastRow"], text.splitlines()[:2]) == (row["number"], [name, "1"])


async def test_odd_rows(database: Database) -> None:
    log = AuditLog(database)
    await log.write(
        log.event(user_agent=ODD, context=ODD, ip_address=ODD, user_id=ODD),
        log.event(user_agent=None, ip_address=None, context=None),
        sealed=False,
    )
    await database.execute(
        "UPDATE auth.encryption_vault_audit SET created_at = CASE number"
        " WHEN 1 THEN 'infinity' ELSE '294276-12-31'::timestamptz END, action = 'made-up'"
    )
    for format_ in FORMATS:
        done = await export(database, "--format", format_)
        assert done.code == 0
        assert done.out.isascii()
        assert len(done.out.splitlines()) == 2
        if format_ == "jsonl":
            odd, empty = map(json.loads, done.out.splitlines())
            assert [odd[one] for one in ("userAgent", "context", "ipAddress", "user")] == [ODD] * 4
            assert [empty[one] for one in ("at", "userAgent", "ipAddress", "seal")] == [None] * 4


# ── going on ──────────────────────────────────────────────────────────────────


async def test_since_a_number(log: AuditLog) -> None:
    # A checkpoint that may not have been there the last time comes, too.
    assert places((await export(log.database, "--since", "2")).out) == ["c1", 3, 4, "c2", 5]
    assert places((await export(log.database, "--since", "3")).out) == ["c1", 4, "c2", 5]
    done = await export(log.database, "--since", "5")
    assert (places(done.out), done.complaint[-9:]) == (["c2"], "--since 5")
    done = await export(log.database, "--since", "9")
    assert "the last row is 5, and not 9 or later" in done.err


async def test_between_times(log: AuditLog) -> None:
    hour = timedelta(hours=1)
    await log.write(log.event(), age=3 * 3600)
    await log.seal()
    now = datetime.now(UTC)
    since, until = (now - 4 * hour).isoformat(), (now - 2 * hour).isoformat()
    done = await export(log.database, "--since", since, "--until", until)
    assert places(done.out) == [6, "c3"]
    assert places((await export(log.database, "--since", until)).out) == [*WHOLE, "c3"]
    assert (await export(log.database, "--since", "yesterday")).code == 2


@pytest.mark.parametrize("format_", list(FORMATS))
async def test_a_file_is_gone_on_with_wherever_it_was_torn(
    log: AuditLog, tmp_path: Path, format_: str, small_pages: None
) -> None:
    file = tmp_path / "audit.jsonl"
    words = "--format", format_, "--output", str(file)
    assert (await export(log.database, *words)).code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    await log.seal()
    assert (await export(log.database, *words)).code == 0
    whole = file.read_bytes()
    if format_ == "jsonl":
        assert places(whole.decode()) == [*WHOLE, "c3"]
    lines = whole.splitlines(keepends=True)
    ends = [sum(map(len, lines[:at])) for at in range(len(lines) + 1)]
    cuts = {0, 5, len(whole), *ends, *(end - 1 for end in ends[1:]), *(end + 30 for end in ends)}
    async with engine_of(log.database.url("custody_owner")) as engine:
        for cut in sorted(cuts):
            file.write_bytes(whole[:cut])
            await _go_on(Reader(engine), file, format_)
            assert file.read_bytes() == whole, cut


async def _go_on(reader: Reader, path: Path, format_: str) -> None:
    """Do as the command does: a process for each cut would take long."""
    chosen = FORMATS[format_]
    with export_file(path, chosen) as file:
        settled = await reader.settled()
        assert settled is not None
        async for lines, _ in Export(reader, chosen, file.place or Place(), Span()).lines(settled):
            file.write(text_of(lines))
        file.sync()


async def test_files_that_are_none_of_ours(log: AuditLog, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in ("precious", "precious\n", '{"other": 1}\n'):
        file.write_text(content, "utf-8")
        done = await export(log.database, "--output", str(file))
        assert done.code == 2
        assert "is no export of this format" in done.err
        assert file.read_text("utf-8") == content
    file.unlink()
    assert (await export(log.database, "--output", str(file))).code == 0
    other = await export(log.database, "--format", "ocsf", "--output", str(file))
    assert other.code == 2
    assert places(file.read_text("utf-8")) == WHOLE


async def test_what_is_no_file(log: AuditLog, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = await export(log.database, "--output", str(pipe))
    assert (done.code, done.err.splitlines()[-1]) == (2, f"Error: {pipe} is no file")


async def test_two_exports_into_one_file(log: AuditLog, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with export_file(file, FORMATS["jsonl"]):
        done = await export(log.database, "--output", str(file))
    assert (done.code, done.err.splitlines()[-1]) == (2, f"Error: {file}: another export writes it")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with export_file(tmp_path / "file", FORMATS["jsonl"]) as file:
        monkeypatch.setattr(os, "write", write)
        with pytest.raises(FileLost, match="could not be written: No space left on device"):
            file.write("{}\n")


# ── under writers ─────────────────────────────────────────────────────────────


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAGE", 2)


async def test_each_row_once_whoever_writes(database: Database, small_pages: None) -> None:
    """Export after export, while many commit, and the one that drew its number first comes last."""

    async def write(writer: int) -> None:
        async with database.connect("custody_owner") as connection:
            for number in range(15):
                async with connection.transaction():
                    await connection.execute("SELECT set_config('app.current_user_id', 'u', true)")
                    await connection.execute(ADD, f"{writer}-{number}")
                    await asyncio.sleep(0.001 * writer)

    exported: list[str] = []

    async def keep_exporting() -> None:
        async with engine_of(database.url("custody_owner")) as engine:
            reader, place = Reader(engine), Place()
            while True:
                settled = await reader.settled()
                assert settled is not None
                one = Export(reader, FORMATS["jsonl"], place, Span())
                exported.extend([text_of(lines) async for lines, _ in one.lines(settled)])

    exporting = asyncio.create_task(keep_exporting())
    async with database.connect("custody_owner") as slow:
        late = slow.transaction()
        await late.start()
        await slow.execute("SELECT set_config('app.current_user_id', 'u', true)")
        await slow.execute(ADD, "late")
        await asyncio.gather(*map(write, range(4)))
        assert numbers("".join(exported)) == []
        await late.commit()
    await asyncio.gather(*map(write, range(4, 6)))
    there = "SELECT number FROM auth.encryption_vault_audit ORDER BY number"
    written = [row["number"] for row in await database.fetch(there)]
    await eventually(lambda: len(numbers("".join(exported))) >= len(written))
    exporting.cancel()
    await asyncio.wait({exporting})
    assert numbers("".join(exported)) == written


async def test_a_checkpoint_that_is_made_up_hides_no_other(log: AuditLog) -> None:
    await log.database.execute(
        "UPDATE auth.encryption_audit_checkpoints SET last_row = 9223372036854775807"
        " WHERE number = 1"
    )
    assert places((await export(log.database)).out) == [1, 2, 3, 4, "c2", 5]


async def test_a_reader_that_has_gone(log: AuditLog, tmp_path: Path) -> None:
    environ = {"CUSTODY_OWNER_DATABASE_URL": log.database.url("custody_owner")}
    reader, writer = os.pipe()
    os.close(reader)
    process = Forked(
        *("custody", "audit", "export"),
        environ=environ,
        out=Path(f"/proc/{os.getpid()}/fd/{writer}"),
        # Never a device: its mode would be set, for all of the machine.
        err=tmp_path / "err",
    )
    assert await asyncio.to_thread(process.wait, 30) == 141
    os.close(writer)
    assert (tmp_path / "err").read_text("utf-8") == ""


# ── OCSF ──────────────────────────────────────────────────────────────────────


async def events(database: Database) -> Iterator[dict[str, Any]]:
    done = await export(database, "--format", "ocsf")
    assert done.code == 0
    return map(json.loads, done.out.splitlines())


async def test_an_event_has_what_its_class_requires(database: Database) -> None:
    log = AuditLog(database)
    made = log.event(action=Action.ROTATE, context="stale-generation", status=412, user_agent=ODD)
    await log.write(made)
    (event,) = await events(database)
    assert event.pop("time") == pytest.approx(datetime.now(UTC).timestamp() * 1000, abs=600_000)
    metadata = event.pop("metadata")
    assert metadata["product"].pop("version")
    assert datetime.fromisoformat(metadata.pop("original_time")).tzinfo
    assert event["unmapped"].pop("seal")
    assert metadata == {
        "sequence": 1,
        "uid": made.id,
        "version": "1.3.0",
        "product": {"name": "custody", "vendor_name": "custody"},
        "log_name": "audit",
    }
    assert event == {
        "category_uid": 6,
        "class_uid": 6003,
        "activity_id": 3,
        "activity_name": "rotate",
        "type_uid": 600303,
        "severity_id": 2,
        "status_id": 2,
        "status_code": "412",
        "status_detail": "stale-generation",
        "actor": {"user": {"uid": made.user_id}},
        "api": {
            "operation": "rotate",
            "service": {"name": "custody"},
            "response": {"code": 412},
        },
        "src_endpoint": {"ip": made.ip_address},
        "http_request": {"user_agent": ODD},
        "http_response": {"code": 412},
        "resources": [{"type": "vault", "uid": made.user_id}],
        "unmapped": {"state": None},
    }


async def test_every_action_is_an_activity(database: Database) -> None:
    log = AuditLog(database)
    await log.write(*(log.event(action=action, ip_address=None) for action in Action))
    await log.write(log.event(user_id=""), log.event(status=500, context="row-tampered"))
    found = list(await events(database))
    for action, event in zip(Action, found[: len(Action)], strict=True):
        assert event["activity_id"] in {1, 2, 3, 4}
        assert event["type_uid"] == 600300 + event["activity_id"]
        own = action in {Action.REWRAP_RUN, Action.REWRAP_FAILED, Action.ERASE, Action.PRUNE}
        assert set(event["actor"]) == {"app_name" if own else "user"}
        assert event["src_endpoint"] == {"name": "custody" if own else "unknown"}
    assert found[-2]["resources"] == []
    assert (found[-1]["severity_id"], found[-1]["status_id"]) == (4, 2)
