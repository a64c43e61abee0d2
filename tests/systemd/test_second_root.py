"""The second root under systemd: its how-to, run as it stands, and the weekly drill."""

import asyncio
import json

import pytest

from tests.client import Client, client_session
from tests.eventually import soon
from tests.states import IV, WRAPPED
from tests.systemd.host import Host
from tests.systemd.howto import sections
from tests.systemd.test_howto import follow

pytestmark = pytest.mark.timeout(600)

PAGE = "second-root"
JOB, TIMER = "custody-drill.service", "custody-drill.timer"
METRICS = "/var/lib/custody-drill/custody_drill.prom"
SET_UP = ("Set it up", "The drill", "Every week")
BACK = "From the second root to a new first one"
GONE = "The day on which the first KMS is gone"


def metrics(host: Host) -> dict[str, float]:
    lines = host.read(METRICS).splitlines()
    pairs = (line.split() for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def listed(host: Host) -> dict[str, tuple[str, int, bool]]:
    found = json.loads(host.run("custody-admin", "kek", "list", "--json").stdout)
    return {one["kek_id"]: (one["state"], len(one["data_keys"]), one["second"]) for one in found}


@pytest.mark.prove
async def test_the_commands_of_the_how_to(debian: Host) -> None:
    """From a first KEK to a second root beside it, which takes its place, to a new first one."""
    assert {*SET_UP, GONE, BACK} == {title for title, blocks in sections(PAGE).items() if blocks}
    debian.configure(kek="systemd:kek_2026?mode=envelope")
    debian.start()
    debian.systemctl("start", "custody-rewrap.timer")
    async with client_session() as session:
        alice, zoe = (Client(debian.daemon, session, user) for user in ("alice", "zoe"))
        made = (await alice.init()).json
        await zoe.init()
        await zoe.set_recovery(WRAPPED, IV)
        await zoe.enable_zk()
        await asyncio.to_thread(follow, debian, PAGE, SET_UP)
        assert listed(debian) == {
            "systemd-kek_2026": ("active", 1, False),
            "systemd-kek_second": ("decrypt-only", 1, True),
        }
        # Gone for good, its copies too.
        debian.run("rm", "/etc/custody/keks/2026")
        await asyncio.to_thread(follow, debian, PAGE, [GONE])
        assert listed(debian) == {
            "systemd-kek_2026": ("retired", 0, False),
            "systemd-kek_second": ("active", 1, False),
        }
        assert (await zoe.key()).json["recoveryWrappedMk"] == WRAPPED
        assert (await alice.key()).json == made
        last = await debian.daemon.database.audit("zoe")
        assert last[-1] == ("fetch", "zk-recovery-blob", 200)
        await asyncio.to_thread(follow, debian, PAGE, [BACK])
        assert listed(debian) == {
            "systemd-kek_2026": ("retired", 0, False),
            "systemd-kek_2027": ("active", 1, False),
            "systemd-kek_second": ("decrypt-only", 1, True),
        }
        assert (await alice.key()).json == made
        assert (await zoe.key()).json["recoveryWrappedMk"] == WRAPPED
    for unit in ("custody.service", "custody.socket", "custody-rewrap.timer", TIMER):
        assert debian.show("ActiveState", unit=unit) == ["active"]
    # The keys are nowhere but in their credentials.
    assert "kek-" not in debian.run("ls", "/run").stdout


@pytest.mark.prove
def test_a_drill_that_fails_calls_somebody_and_says_so_in_the_metrics(debian: Host) -> None:
    debian.start()
    assert debian.systemctl("start", JOB).returncode == 1
    assert debian.show("ActiveState", "ExecMainStatus", unit=JOB) == ["failed", "78"]
    assert metrics(debian)["custody_drill_success"] == 0
    shown = debian.run("stat", "--format=%U %a", METRICS, "/var/lib/custody-drill").stdout
    assert shown == "custody-drill 644\ncustody-drill 755\n"
    line = f"custody: {JOB} has failed (exit-code, 78): journalctl --unit=custody-drill"
    soon(lambda: line in debian.journal("custody-failed@custody-drill", "--priority=crit"))
    debian.make_kek("second")
    debian.configure(second_kek="systemd:kek_second")
    assert debian.systemctl("start", JOB).returncode == 1
    assert debian.show("ActiveState", "ExecMainStatus", unit=JOB) == ["failed", "1"]
    assert "has no wrap under systemd:kek_second: custody rewrap run" in debian.journal(JOB)
    debian.start("custody-rewrap.service")
    debian.start(JOB)
    assert metrics(debian)["custody_drill_success"] == 1
    assert debian.run("stat", "--format=%a", METRICS).stdout == "644\n"


@pytest.mark.prove
def test_a_drill_without_its_database_is_run_again(debian: Host) -> None:
    debian.drop_in(JOB, "[Service]", "RestartSec=1s")
    debian.make_kek("second")
    debian.configure(second_kek="systemd:kek_second")
    debian.start()
    debian.start("custody-rewrap.service")
    url = debian.daemon.database.url("custody_app")
    debian.seal("custody_database_url", url.replace(url.rpartition(":")[2], "9/nothing"))
    assert debian.systemctl("start", JOB).returncode == 1
    soon(lambda: int(debian.property("NRestarts", JOB)) >= 1)
    assert "status=69/UNAVAILABLE" in debian.journal(JOB)
    debian.seal("custody_database_url", url)
    soon(lambda: debian.property("ActiveState", JOB) == "inactive", seconds=60)
    assert debian.property("Result", JOB) == "success"


@pytest.mark.prove
def test_the_timer_is_weekly_at_a_time_of_its_own_and_makes_up_for_a_week_off(
    debian: Host,
) -> None:
    debian.systemctl("enable", "--now", TIMER)
    names = ("TimersCalendar", "RandomizedDelayUSec", "FixedRandomDelay", "Persistent", "Unit")
    shown = dict(zip(names, debian.show(*names, unit=TIMER), strict=True))
    assert "OnCalendar=Sat *-*-* 06:00:00" in shown.pop("TimersCalendar")
    assert shown == {
        "RandomizedDelayUSec": "6h",
        "FixedRandomDelay": "yes",
        "Persistent": "yes",
        "Unit": JOB,
    }
