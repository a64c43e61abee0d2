"""The re-wrap job under systemd: by its timer, beside the daemon, and what each exit code does."""

import asyncio
import secrets
from collections import Counter

import pytest

from tests.eventually import soon
from tests.load import load
from tests.many_rows import copy_rows
from tests.ports import free_port
from tests.systemd.host import Host
from tests.systemd.howto import sections

pytestmark = pytest.mark.timeout(600)

ROWS = 2000
# What a chat would be: it takes one message.
HOOK = """
import http.server, pathlib, sys

class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        pathlib.Path(sys.argv[2]).write_bytes(text)

server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Hook)
pathlib.Path(sys.argv[2] + ".listens").touch()
server.handle_request()
"""
JOB = "custody-rewrap.service"
TIMER = "custody-rewrap.timer"


async def seed(host: Host, count: int = ROWS) -> dict[str, bytes]:
    """Make vaults under the KEK of 2026, then make that of 2027 the active one."""
    old = host.make_kek("2026")
    ledger = {f"user-{number:05}": secrets.token_bytes(32) for number in range(count)}
    await copy_rows(host.daemon.database, old, ledger.items())
    host.make_kek("2027")
    # The load is of four users, as fast as they can.
    host.configure(kek="systemd:kek_2027", old_keks="systemd:kek_2026", rate_limit=0)
    return ledger


async def stamps(host: Host) -> Counter[str]:
    rows = await host.daemon.database.fetch("SELECT kek_id FROM auth.encryption_vaults")
    return Counter(row["kek_id"] for row in rows)


def retry_soon(host: Host) -> None:
    host.drop_in(JOB, "[Service]", "RestartSec=1s")


@pytest.mark.prove
async def test_the_timer_starts_the_job_and_it_rewraps_while_the_daemon_serves(
    debian: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = await seed(debian)
    debian.start()
    debian.drop_in(
        TIMER, "[Timer]", "OnCalendar=", "OnActiveSec=1s", "RandomizedDelaySec=0", "AccuracySec=1ms"
    )
    async with load(debian.daemon, list(ledger)[:4]) as seen:
        assert (await asyncio.to_thread(debian.systemctl, "start", TIMER)).returncode == 0
        await asyncio.to_thread(soon, lambda: "run 1 to" in debian.journal(JOB), 60)
        await asyncio.to_thread(soon, lambda: debian.property("ActiveState", JOB) == "inactive")
    with capsys.disabled():
        figure = f"{len(seen.requests)} requests meanwhile, {len(seen.lost())} lost"
        print(f"\nre-wrap by the timer: {ROWS} rows; {figure}")  # noqa: T201
    assert await stamps(debian) == {"systemd-kek_2027": ROWS}
    assert debian.show("Result", "NRestarts", "ExecMainStatus", unit=JOB) == ["success", "0", "0"]
    assert f"{ROWS} re-wrapped" in debian.journal(JOB)
    assert seen.requests
    assert seen.lost() == []


@pytest.mark.prove
def test_the_timer_is_nightly_at_a_time_of_its_own_and_makes_up_for_a_night_off(
    debian: Host,
) -> None:
    debian.systemctl("enable", "--now", TIMER)
    names = ("TimersCalendar", "RandomizedDelayUSec", "FixedRandomDelay", "Persistent", "Unit")
    shown = dict(zip(names, debian.show(*names, unit=TIMER), strict=True))
    assert "OnCalendar=*-*-* 01:00:00" in shown.pop("TimersCalendar")
    assert shown == {
        "RandomizedDelayUSec": "4h",
        "FixedRandomDelay": "yes",
        "Persistent": "yes",
        "Unit": JOB,
    }
    # What it remembers of the last night outlives the boot.
    assert debian.path(f"/var/lib/systemd/timers/stamp-{TIMER}").exists()


@pytest.mark.prove
async def test_a_job_that_is_not_finished_is_run_again_until_it_is(debian: Host) -> None:
    await seed(debian)
    retry_soon(debian)
    # A daemon from before the change: it could not read what the job would write.
    debian.configure(kek="systemd:kek_2026", old_keks=[])
    debian.start()
    debian.configure(kek="systemd:kek_2027", old_keks="systemd:kek_2026")
    assert debian.systemctl("start", JOB).returncode == 1
    soon(lambda: int(debian.property("NRestarts", JOB)) >= 2)
    assert "status=75/TEMPFAIL" in debian.journal(JOB)
    assert await stamps(debian) == {"systemd-kek_2026": ROWS}
    (reason,) = set(debian.said(JOB))
    assert "can't read systemd:kek_2027" in reason
    assert debian.systemctl("restart", "custody").returncode == 0
    soon(lambda: debian.property("ActiveState", JOB) == "inactive", seconds=60)
    assert debian.property("Result", JOB) == "success"
    assert await stamps(debian) == {"systemd-kek_2027": ROWS}


@pytest.mark.prove
def test_a_job_without_its_database_is_run_again(debian: Host) -> None:
    retry_soon(debian)
    url = debian.daemon.database.url("custody_rewrap")
    debian.seal("custody_rewrap_database_url", url.replace(url.rpartition(":")[2], "9/nothing"))
    assert debian.systemctl("start", JOB).returncode == 1
    soon(lambda: int(debian.property("NRestarts", JOB)) >= 1)
    assert "status=69/UNAVAILABLE" in debian.journal(JOB)
    assert alarms(debian) == []
    debian.seal("custody_rewrap_database_url", url)
    soon(lambda: debian.property("ActiveState", JOB) == "inactive", seconds=60)
    assert debian.property("Result", JOB) == "success"


@pytest.mark.prove
async def test_a_job_that_needs_somebody_to_look_fails_once(debian: Host) -> None:
    retry_soon(debian)
    await seed(debian, 3)
    await debian.daemon.database.execute(
        "UPDATE auth.encryption_vaults SET wrapped_mk = reverse(wrapped_mk)"
        " WHERE user_id = 'user-00001'"
    )
    assert debian.systemctl("start", JOB).returncode == 1
    await asyncio.sleep(4)
    shown = debian.show("ActiveState", "ExecMainStatus", "NRestarts", unit=JOB)
    assert shown == ["failed", "1", "0"]
    assert await stamps(debian) == {"systemd-kek_2027": 2, "systemd-kek_2026": 1}


@pytest.mark.parametrize("wrong", ["role", pytest.param("credential", marks=pytest.mark.prove)])
def test_a_job_that_is_configured_wrongly_fails_once(wrong: str, debian: Host) -> None:
    retry_soon(debian)
    if wrong == "role":
        url = debian.daemon.database.url("custody_app")
        debian.seal("custody_rewrap_database_url", url)
    else:
        debian.write("/etc/credstore.encrypted/custody_rewrap_database_url", "c2Vh\n")
    assert debian.systemctl("start", JOB).returncode == 1
    soon(lambda: debian.property("ActiveState", JOB) == "failed")
    code = "78" if wrong == "role" else "243"
    shown = debian.show("ActiveState", "ExecMainStatus", "NRestarts", unit=JOB)
    assert shown == ["failed", code, "0"]
    line = f"custody: {JOB} has failed (exit-code, {code}): journalctl --unit=custody-rewrap"
    soon(lambda: line in alarms(debian))


@pytest.mark.prove
def test_a_failure_calls_somebody_by_the_drop_in_of_the_how_to(debian: Host) -> None:
    port, caught = free_port(), "/run/caught"
    (lines,) = sections("install-on-debian", "ini")["When it fails"]
    debian.drop_in("custody-failed@.service", lines)
    debian.seal("hook", f'url = "http://127.0.0.1:{port}/"\n')
    debian.write("/run/hook.py", HOOK)
    hook = debian.spawn("/usr/bin/python3", "/run/hook.py", str(port), caught)
    soon(lambda: debian.path(f"{caught}.listens").exists())
    debian.run("rm", "/etc/credstore.encrypted/custody_rewrap_database_url")
    assert debian.systemctl("start", JOB).returncode == 1
    assert hook.wait(30) == 0
    assert "custody-rewrap%20has%20failed" in debian.read(caught).replace("+", "%20")


def alarms(host: Host) -> list[str]:
    """Return what is critical in the journal of the alarm for the job."""
    return host.journal("custody-failed@custody-rewrap", "--priority=crit").splitlines()


@pytest.mark.prove
def test_a_job_that_is_stopped_stays_stopped_and_goes_on_the_next_time(debian: Host) -> None:
    retry_soon(debian)
    debian.seal("custody_rewrap_database_url", "postgresql://a:b@127.0.0.1:9/c")
    debian.systemctl("start", JOB)
    soon(lambda: debian.property("SubState", JOB) == "auto-restart")
    debian.systemctl("stop", JOB)
    assert debian.property("ActiveState", JOB) in {"inactive", "failed"}
