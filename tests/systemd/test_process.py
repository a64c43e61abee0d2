"""The daemon's process under systemd: what it has, what it can reach, and who can reach it."""

import json
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from custody.development.postgres import EmbeddedPostgres
from tests.servers import Database, new_database
from tests.systemd.host import Host, host
from tests.systemd.installation import SOURCES
from tests.systemd.test_faults import main_process
from tests.systemd.throwaway import Bind
from tests.tokens import Issuer

pytestmark = [pytest.mark.timeout(600), pytest.mark.prove]

PROBE = f"/opt/custody/bin/python3 {SOURCES}/tests/systemd/probe.py"
FORBIDDEN = (
    "execute what it wrote",
    "packet socket",
    "user namespace",
    "be traced",
    "see other processes",
    "be root",
    "read the host's key of credentials",
    "read credentials at rest",
    "read homes",
)
_SYS_RESOURCE = 24


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def its_database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    async with new_database(postgres) as made:
        yield made


@pytest.fixture(scope="module")
def served(installed: tuple[Bind, ...], its_database: Database, issuer: Issuer) -> Iterator[Host]:
    """A host whose daemon runs, for those who only look at it."""
    with host(installed, its_database, issuer) as made:
        made.start()
        yield made


def status_of(process: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def memory_can_be_locked() -> bool:
    """Say whether this machine lets systemd lift the limit on locked memory."""
    may_raise = int(status_of("self")["CapEff"], 16) >> _SYS_RESOURCE & 1
    return bool(may_raise) or resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] == -1


def probe(host: Host, unit: str, *actions: str) -> dict[str, Any]:
    """Run the probe in place of a service, with all else as in its unit file."""
    lines = host.system.read(f"/usr/local/lib/systemd/system/{unit}").splitlines()
    command = " ".join(f'"{action}"' for action in actions)
    changed = {
        "ExecStart=": f"ExecStart={PROBE} / {command}",
        "Type=": "Type=oneshot",
        "Restart=": "Restart=no",
        "Requires=": "",
        "WatchdogSec=": "",
    }
    for number, line in enumerate(lines):
        for begin, instead in changed.items():
            if line.startswith(begin):
                lines[number] = instead
    return ask(host, lines)


def ask(host: Host, lines: list[str]) -> dict[str, Any]:
    """Start a unit that runs the probe, and return what that says."""
    host.system.write("/etc/systemd/system/custody-probe.service", "\n".join(lines))
    host.start("custody-probe.service")
    journal = host.system.journal("custody-probe.service").splitlines()
    (said,) = (line for line in journal if line.startswith("{"))
    return dict(json.loads(said))


def test_it_has_no_capabilities_no_way_to_new_ones_and_a_filter_of_system_calls(
    served: Host,
) -> None:
    status = status_of(main_process(served))
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    users = served.system.run("id", "--user", "custody").stdout.strip()
    assert status["Uid"].split() == [users] * 4


def test_it_has_no_ring_that_no_filter_sees_through(served: Host) -> None:
    folder = Path(f"/proc/{main_process(served)}/fd")
    held = [str(one.readlink()) for one in folder.iterdir()]
    assert any("eventpoll" in what for what in held)
    assert not [what for what in held if "io_uring" in what]


def test_its_environment_holds_no_secret(served: Host) -> None:
    environ = Path(f"/proc/{main_process(served)}/environ").read_text("utf-8")
    assert "CREDENTIALS_DIRECTORY=/run/credentials/custody.service" in environ
    assert "postgresql://" not in environ
    database = served.daemon.database
    assert database.url("custody_app").partition("@")[0].rpartition(":")[2] not in environ
    assert {line.partition("=")[0] for line in environ.split("\0") if "CUSTODY" in line} == {
        "CUSTODY_CONFIG"
    }


@pytest.mark.parametrize("user", ["custody-rewrap", "custody-migrate", "nobody"])
def test_others_can_read_neither_its_credentials_nor_its_memory(user: str, served: Host) -> None:
    folder = "/run/credentials/custody.service"
    process = served.property("MainPID")
    seen = ("custody_database_url", "kek_2026")
    for path in (*(f"{folder}/{name}" for name in seen), f"/proc/{process}/environ"):
        done = served.system.run("runuser", f"--user={user}", "--", "cat", path, check=False)
        assert done.returncode != 0
        assert done.stdout == ""
        assert "Permission denied" in done.stderr
    as_itself = ("runuser", "--user=custody", "--", "cat")
    for name in seen:
        assert served.system.run(*as_itself, f"{folder}/{name}").stdout
    # Not even another process of its own user: a debugger, or a program that was broken into.
    for name in ("environ", "mem", "maps"):
        done = served.system.run(*as_itself, f"/proc/{process}/{name}", check=False)
        assert (done.returncode != 0, done.stdout) == (True, "")


def test_the_job_gets_no_credential_of_the_daemon_and_the_daemon_none_of_the_job(
    served: Host,
) -> None:
    found = served.system.run("ls", "/run/credentials/custody.service").stdout.split()
    assert found == ["custody_database_url", "kek_2026"]
    shown = served.system.run("systemctl", "cat", "custody-rewrap").stdout
    assert "custody_database_url" not in shown
    assert "custody_owner_database_url" not in shown


def test_no_core_is_ever_written(served: Host) -> None:
    limits = Path(f"/proc/{main_process(served)}/limits").read_text("utf-8")
    (line,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert line.split()[4:6] == ["0", "0"]


def test_its_memory_is_locked(served: Host) -> None:
    if not memory_can_be_locked():
        pytest.skip("this machine has no CAP_SYS_RESOURCE: LimitMEMLOCK=infinity has no effect")
    status = status_of(main_process(served))
    assert int(status["VmLck"].split()[0]) > 0
    assert status["VmSwap"] == "0 kB"


def test_the_daemon_can_write_to_its_runtime_folder_alone(debian: Host) -> None:
    said = probe(debian, "custody.service", *FORBIDDEN)
    assert said["folders"] == ["/run/custody"]
    assert said["files"] == []
    assert said["refused"] == dict.fromkeys(FORBIDDEN, True)


def test_the_job_can_write_to_nothing(debian: Host) -> None:
    said = probe(debian, "custody-rewrap.service", *FORBIDDEN[1:])
    assert said["folders"] == []
    assert said["files"] == []
    assert said["refused"] == dict.fromkeys(FORBIDDEN[1:], True)


def test_outside_of_the_sandbox_all_of_it_can_be_done(debian: Host) -> None:
    command = " ".join(f'"{action}"' for action in FORBIDDEN)
    # Not all there is: what root could write to would be copied up.
    places = "/run,/dev,/etc/custody"
    run = f"ExecStart={PROBE} {places} {command}"
    lines = ["[Service]", "Type=oneshot", "RuntimeDirectory=probe", run]
    said = ask(debian, lines)
    assert {"/run/probe", "/run/lock", "/dev/shm", "/etc/custody"} <= set(said["folders"])
    assert said["files"]
    assert said["refused"] == dict.fromkeys(FORBIDDEN, False)
