"""``custody audit tail``: what it shows, and with --follow each row once, none left out."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from custody.audit import settled
from custody.audit.events import Action
from custody.audit.reading import HIGHEST, Reader
from custody.cli.commands import audit_tail
from custody.cli.commands.audit_tail import Chosen, line_of
from tests.audit_log import AuditLog
from tests.db.command import Command, Done, custody
from tests.db.connecting import engine_of
from tests.eventually import eventually
from tests.faulty_proxy import Fault, faulty_proxy
from tests.ports import free_port
from tests.servers import Database
from tests.terminal import on_a_terminal

ALL = Chosen(None, ())
ADD = (
    "INSERT INTO auth.encryption_vault_audit (id, user_id, action, status) VALUES ($1, $2, $3, 200)"
)
NUMBERS = "SELECT number FROM auth.encryption_vault_audit ORDER BY number"
ODD = "a\x1b[31mb\nc\u202ed\u2028e\x9b2Jé"


def environ(database: Database) -> dict[str, str]:
    return {"CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner")}


async def tail(database: Database, *words: str) -> Done:
    return await asyncio.to_thread(custody, environ(database), "audit", "tail", *words)


class Follower:
    """What follows the audit of a database, and what it has shown."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.numbers += [row["number"] for row in rows]


@asynccontextmanager
async def following(url: str, chosen: Chosen = ALL) -> AsyncIterator[Follower]:
    follower = Follower()
    async with engine_of(url) as engine:
        task = asyncio.create_task(audit_tail._follow(Reader(engine), 0, chosen, follower.show))
        try:
            yield follower
        finally:
            assert not task.done(), task.exception()
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_tail, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(settled, "LOOK_SECONDS", 0.01)


@pytest.mark.prove
async def test_the_newest_rows(database: Database) -> None:
    log = AuditLog(database)
    for number in range(6):
        action = Action.FETCH if number % 2 else Action.ROTATE
        await log.write(log.event(user_id=f"user-{number // 3}", action=action))

    async def numbers(*words: str) -> list[int]:
        done = await tail(database, "--json", *words)
        assert (done.code, done.err) == (0, "")
        return [json.loads(line)["number"] for line in done.out.splitlines()]

    assert await numbers() == [1, 2, 3, 4, 5, 6]
    assert await numbers("--lines", "2") == [5, 6]
    assert await numbers("--user", "user-0") == [1, 2, 3]
    assert await numbers("--user", "user-1", "--action", "fetch") == [4, 6]
    assert await numbers("--action", "fetch", "--action", "rotate", "--lines", "3") == [4, 5, 6]
    assert await numbers("--user", "nobody") == []


async def test_odd_rows_do_not_steer_a_terminal(database: Database) -> None:
    log = AuditLog(database)
    await log.write(
        log.event(user_agent=ODD, context=ODD, ip_address=ODD, user_id=ODD, status=500),
        log.event(user_agent=None, context=None, ip_address=None, user_id="", status=404),
        log.event(user_agent="x" * 500),
    )
    await database.execute(
        "UPDATE auth.encryption_vault_audit SET created_at = 'infinity', number = DEFAULT"
        " WHERE number = 2"
    )
    done = await tail(database)
    assert done.code == 0
    lines = done.out.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert lines[0].endswith("500  a?[31mb?c?d?e?2Jé  a?[31mb?c?d?e?2Jé")
    assert lines[1].endswith(f"{'x' * 39}…")
    assert lines[2].split()[:2] == ["-", "-"]
    shown = (await tail(database, "--json")).out
    assert shown.isascii()
    assert json.loads(shown.splitlines()[0])["userAgent"] == ODD


async def test_what_stands_out_on_a_terminal(database: Database) -> None:
    log = AuditLog(database)
    await log.write(log.event(status=200), log.event(status=409), log.event(status=500))
    code, drawn = await asyncio.to_thread(on_a_terminal, environ(database), "audit", "tail")
    assert code == 0
    async with engine_of(database.url("custody_owner")) as engine:
        fine, refused, failed = map(line_of, await Reader(engine).newest(3, HIGHEST))
    lines = drawn.splitlines()
    assert lines[0] == fine
    assert lines[1].startswith("\x1b[33m")
    assert lines[2].startswith("\x1b[1;31m")
    assert refused in lines[1]
    assert failed in lines[2]


@pytest.mark.prove
async def test_each_row_once_and_in_order_whoever_writes(database: Database) -> None:
    """Among many that commit at once one that drew its number first commits last."""

    async def write(writer: int) -> None:
        async with database.connect("custody_owner") as connection:
            for number in range(25):
                async with connection.transaction():
                    await connection.execute("SELECT set_config('app.current_user_id', 'u', true)")
                    await connection.execute(ADD, f"{writer}-{number}", "u", "fetch")
                    await asyncio.sleep(0.001 * writer)

    async with (
        following(database.url("custody_owner")) as follower,
        database.connect("custody_owner") as slow,
    ):
        late = slow.transaction()
        await late.start()
        await slow.execute("SELECT set_config('app.current_user_id', 'slow', true)")
        await slow.execute(ADD, "late", "slow", "fetch")
        await asyncio.gather(*map(write, range(4)))
        assert follower.numbers == []
        await late.commit()
        await asyncio.gather(*map(write, range(4, 6)))
        written = [row["number"] for row in await database.fetch(NUMBERS)]
        assert len(written) == 151
        await eventually(lambda: len(follower.numbers) >= len(written))
    assert follower.numbers == written


async def test_rows_that_are_not_chosen_are_passed_over(database: Database) -> None:
    log = AuditLog(database)
    chosen = Chosen("alice", ("fetch",))
    async with following(database.url("custody_owner"), chosen) as follower:
        for user, action in [("bob", "fetch"), ("alice", "init"), ("alice", "fetch")]:
            await log.write(log.event(user_id=user, action=action))
        await eventually(lambda: follower.numbers == [3])


async def test_it_goes_on_when_the_database_is_back(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    log = AuditLog(database)
    with faulty_proxy(database.server.port) as proxy:
        url = database.url("custody_owner").replace(f":{database.server.port}/", f":{proxy.port}/")
        async with following(url) as follower:
            await log.write(log.event())
            await eventually(lambda: follower.numbers == [1])
            proxy.fault = Fault.REFUSE
            await log.write(log.event(), log.event())
            said = await eventually(lambda: capsys.readouterr().err)
            assert said.startswith("custody: waits for the database: ")
            proxy.fault = Fault.NONE
            await eventually(lambda: follower.numbers == [1, 2, 3])
            await eventually(lambda: capsys.readouterr().err == "custody: the database is back\n")


async def test_a_log_that_has_become_shorter(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a restored backup has it: what comes then is shown, whatever its number is."""
    log = AuditLog(database)
    async with following(database.url("custody_owner")) as follower:
        await log.write(log.event(), log.event(), log.event())
        await eventually(lambda: follower.numbers == [1, 2, 3])
        await database.execute("DELETE FROM auth.encryption_vault_audit WHERE number > 1")
        await database.execute("SELECT setval('auth.encryption_vault_audit_number_seq', 1)")
        await eventually(lambda: "the audit is shorter" in capsys.readouterr().err)
        await log.write(log.event())
        await eventually(lambda: follower.numbers == [1, 2, 3, 2])


@pytest.mark.prove
async def test_ctrl_c_ends_it(database: Database) -> None:
    log = AuditLog(database)
    await log.write(log.event())
    command = Command(environ(database), "audit", "tail", "--follow", "--json")
    shown = command._folder / "out"
    await eventually(lambda: shown.read_text("utf-8").count("\n") == 1)
    await log.write(log.event())
    await eventually(lambda: shown.read_text("utf-8").count("\n") == 2)
    os.kill(command.process.pid, signal.SIGINT)
    done = await asyncio.to_thread(command.end)
    assert (done.code, done.err.strip()) == (130, "")
    assert [json.loads(line)["number"] for line in done.out.splitlines()] == [1, 2]


async def test_who_can_not_read(database: Database) -> None:
    async def run(environ: dict[str, str], *words: str) -> Done:
        return await asyncio.to_thread(custody, environ, *words)

    assert (await run({}, "audit", "tail")).code == 78
    down = f"postgresql://custody_owner:x@127.0.0.1:{free_port()}/custody"
    done = await run({"CUSTODY_OWNER_DATABASE_URL": down}, "audit", "tail", "--follow")
    assert done.code == 69
    app = {"CUSTODY_AUDIT_DATABASE_URL": database.url("custody_app")}
    done = await run(app, "audit", "tail")
    assert done.code == 78
    assert "this role does not see the whole audit" in done.complaint
