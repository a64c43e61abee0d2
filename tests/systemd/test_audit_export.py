"""The follower under systemd: its unit, to the real journal and to a file."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.audit_log import AuditLog
from tests.audit_targets import first_times, numbers
from tests.eventually import eventually, soon
from tests.systemd.host import Host

pytestmark = pytest.mark.timeout(600)

UNIT = "custody-audit-export.service"
FILE = "/var/log/custody-audit/audit.jsonl"
# More than the journal takes of a service in 30 seconds, if it takes no more than this (and a few
# times that, where its disk is large).
BURST, MANY = 100, 3000


@asynccontextmanager
async def exporting(host: Host, target: str) -> AsyncIterator[AuditLog]:
    """Configure the unit, with a login that reads the audit and no more."""
    database = host.daemon.database
    login = f"auditor_{secrets.token_hex(4)}"
    await database.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'x' IN ROLE custody_audit")
    place = database.url("custody_owner").partition("@")[2]
    host.seal("custody_audit_database_url", f"postgresql://{login}:x@{place}")
    host.configure(audit_export=target)
    try:
        yield AuditLog(database)
    finally:
        await asyncio.to_thread(host.systemctl, "stop", UNIT)
        await database.execute(f"DROP ROLE {login}")


def entries(host: Host, *matches: str) -> list[dict[str, str]]:
    asked = ("journalctl", "--identifier=custody-audit", "--output=json", "--all", *matches)
    host.run("journalctl", "--sync")
    return [json.loads(line) for line in host.run(*asked).stdout.splitlines()]


def rows(host: Host) -> list[int]:
    return numbers(one["MESSAGE"] for one in entries(host))


def lines(host: Host) -> list[int]:
    return numbers(host.run("cat", FILE, check=False).stdout.splitlines())


@pytest.mark.prove
async def test_to_the_journal(debian: Host) -> None:
    """Fields to look for, a row of any size, and the journal itself killed."""
    async with exporting(debian, "journal:") as log:
        await log.write(log.event(user_id="alice"), log.event(user_agent="b" * 300_000))
        await asyncio.to_thread(debian.start, UNIT)
        await eventually(lambda: rows(debian) == [1, 2])
        status = "row 2 | 0 behind"
        await eventually(lambda: debian.property("StatusText", UNIT) == status)
        (found,) = entries(debian, "CUSTODY_AUDIT_USER=alice")
        assert found["SYSLOG_FACILITY"] == "13"
        assert found["_SYSTEMD_UNIT"] == UNIT
        assert json.loads(found["MESSAGE"])["id"] == found["CUSTODY_AUDIT_ID"]
        debian.run("systemctl", "kill", "--signal=KILL", "systemd-journald")
        await log.write(log.event())
        await eventually(lambda: first_times(rows(debian)) == [1, 2, 3])
        await asyncio.to_thread(debian.systemctl, "kill", "--signal=KILL", UNIT)
        await log.write(log.event())
        await eventually(lambda: first_times(rows(debian)) == [1, 2, 3, 4])
        assert debian.show("ActiveState", "User", unit=UNIT) == ["active", "custody-audit"]


@pytest.mark.prove
async def test_the_journal_drops_none_of_many(debian: Host) -> None:
    async with exporting(debian, "journal:") as log:
        # In the place of that of the throw-away system, which sets no limit.
        limit = f"[Journal]\nRateLimitIntervalSec=30s\nRateLimitBurst={BURST}\n"
        debian.write("/etc/systemd/journald.conf.d/zz-few.conf", limit)
        debian.run("systemctl", "restart", "systemd-journald")
        await log.write(*(log.event() for _ in range(MANY)))
        await asyncio.to_thread(debian.start, UNIT)
        await eventually(lambda: len(rows(debian)) >= MANY, 120)
        assert first_times(rows(debian)) == list(range(1, MANY + 1))


@pytest.mark.prove
async def test_to_a_file(debian: Host) -> None:
    """That the group may read; renamed; and a start beside an empty one."""
    async with exporting(debian, f"file:{FILE}") as log:
        await log.write(log.event())
        await asyncio.to_thread(debian.start, UNIT)
        await eventually(lambda: lines(debian) == [1])
        shown = debian.run("stat", "--format=%U %G %a", FILE, "/var/log/custody-audit").stdout
        assert shown == "custody-audit custody-audit 640\ncustody-audit custody-audit 750\n"
        debian.run("mv", FILE, f"{FILE}.1")
        await log.write(log.event())
        await eventually(lambda: lines(debian) == [2])
        assert debian.systemctl("stop", UNIT).returncode == 0
        assert debian.show("Result", "ExecMainStatus", unit=UNIT) == ["success", "0"]


@pytest.mark.prove
async def test_what_is_refused_fails_once_and_calls_somebody(debian: Host) -> None:
    async with exporting(debian, "file:/nowhere/audit.jsonl"):
        assert debian.systemctl("start", UNIT).returncode == 1
        assert debian.show("Result", "ExecMainStatus", unit=UNIT) == ["exit-code", "78"]
        assert "/nowhere/audit.jsonl can't be opened" in debian.journal(UNIT)
        soon(lambda: "has failed" in debian.journal("custody-failed@custody-audit-export"))
        assert debian.property("NRestarts", UNIT) == "0"
