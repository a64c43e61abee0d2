"""The daemon's process under systemd: what it has, what it can reach, and who can reach it."""

import json
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Database
from tests.systemd.host import Host, host
from tests.systemd.installation import SOURCES
from tests.systemd.throwaway import Bind
from tests.tokens import Issuer

pytestmark = [pytest.mark.timeout(600), pytest.mark.prove]

PROGRAM = f"/opt/custody/bin/python3 {SOURCES}/tests/systemd/probe.py"
PROBE = ("[Service]", "Type=oneshot", "Restart=no", "WatchdogSec=0", "ExecStart=")
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


@pytest.fixture(scope="module")
def served(
    installed: tuple[Bind, ...], module_database: Database, issuer: Issuer
) -> Iterator[Host]:
    """A host whose daemon runs, for those who only look at it."""
    with host(installed, module_database, issuer) as made:
        made.start()
        yield made


def status_of(process: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def probe(host: Host, unit: str, *actions: str) -> dict[str, Any]:
    """Run the probe in place of a service, with all else as in its unit file."""
    host.drop_in(unit, *PROBE, f"ExecStart={PROGRAM} / {quoted(actions)}")
    return run(host, unit)


def quoted(actions: Iterable[str]) -> str:
    return " ".join(f'"{action}"' for action in actions)


def run(host: Host, unit: str) -> dict[str, Any]:
    """Start a unit that is the probe, and return what that says."""
    host.start(unit)
    (said,) = (line for line in host.journal(unit).splitlines() if line.startswith("{"))
    return dict(json.loads(said))


def test_it_has_no_capabilities_no_way_to_new_ones_and_a_filter_of_system_calls(
    served: Host,
) -> None:
    status = status_of(served.main_process())
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    users = served.run("id", "--user", "custody").stdout.strip()
    assert status["Uid"].split() == [users] * 4


def test_it_has_no_ring_that_no_filter_sees_through(served: Host) -> None:
    folder = Path(f"/proc/{served.main_process()}/fd")
    held = [str(one.readlink()) for one in folder.iterdir()]
    assert any("eventpoll" in what for what in held)
    assert not [what for what in held if "io_uring" in what]


def test_its_environment_holds_no_secret(served: Host) -> None:
    environ = Path(f"/proc/{served.main_process()}/environ").read_text("utf-8")
    assert "CREDENTIALS_DIRECTORY=/run/credentials/custody.service" in environ
    assert "postgresql://" not in environ
    database = served.daemon.database
    assert database.url("custody_app").partition("@")[0].rpartition(":")[2] not in environ
    assert {line.partition("=")[0] for line in environ.split("\0") if "CUSTODY" in line} == {
        "CUSTODY_CONFIG"
    }


@pytest.mark.parametrize(
    "user", ["custody-rewrap", "custody-migrate", "custody-drill", "custody-verify", "nobody"]
)
def test_others_can_read_neither_its_credentials_nor_its_memory(user: str, served: Host) -> None:
    folder = "/run/credentials/custody.service"
    process = served.property("MainPID")
    seen = ("custody_database_url", "kek_2026")
    for path in (*(f"{folder}/{name}" for name in seen), f"/proc/{process}/environ"):
        done = served.run("runuser", f"--user={user}", "--", "cat", path, check=False)
        assert done.returncode != 0
        assert done.stdout == ""
        assert "Permission denied" in done.stderr
    as_itself = ("runuser", "--user=custody", "--", "cat")
    for name in seen:
        assert served.run(*as_itself, f"{folder}/{name}").stdout
    # Not even another process of its own user: a debugger, or a program that was broken into.
    for name in ("environ", "mem", "maps"):
        done = served.run(*as_itself, f"/proc/{process}/{name}", check=False)
        assert (done.returncode != 0, done.stdout) == (True, "")


def test_the_job_gets_no_credential_of_the_daemon_and_the_daemon_none_of_the_job(
    served: Host,
) -> None:
    found = served.run("ls", "/run/credentials/custody.service").stdout.split()
    assert found == ["custody_database_url", "kek_2026"]
    shown = served.run("systemctl", "cat", "custody-rewrap").stdout
    assert "custody_database_url" not in shown
    assert "custody_owner_database_url" not in shown


def test_no_core_is_ever_written(served: Host) -> None:
    limits = Path(f"/proc/{served.main_process()}/limits").read_text("utf-8")
    (line,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert line.split()[4:6] == ["0", "0"]


def test_its_memory_is_locked(served: Host) -> None:
    # Whether this machine lets systemd lift the limit on locked memory.
    may_raise = int(status_of("self")["CapEff"], 16) >> _SYS_RESOURCE & 1
    if not may_raise and resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] != -1:
        pytest.skip("this machine has no CAP_SYS_RESOURCE: LimitMEMLOCK=infinity has no effect")
    status = status_of(served.main_process())
    assert int(status["VmLck"].split()[0]) > 0
    assert status["VmSwap"] == "0 kB"


def test_the_daemon_can_write_to_its_runtime_folder_alone(debian: Host) -> None:
    said = probe(debian, "custody.service", *FORBIDDEN)
    assert said["folders"] == ["/run/custody"]
    assert said["files"] == []
    assert said["refused"] == dict.fromkeys(FORBIDDEN, True)


@pytest.mark.parametrize("job", ["custody-rewrap.service", "custody-verify.service"])
def test_the_job_can_write_to_nothing(job: str, debian: Host) -> None:
    said = probe(debian, job, *FORBIDDEN[1:])
    assert said["folders"] == []
    assert said["files"] == []
    assert said["refused"] == dict.fromkeys(FORBIDDEN[1:], True)


def test_the_drill_can_write_to_its_state_folder_alone(debian: Host) -> None:
    said = probe(debian, "custody-drill.service", *FORBIDDEN)
    assert said["folders"] == ["/var/lib/custody-drill"]
    assert said["files"] == []
    assert said["refused"] == dict.fromkeys(FORBIDDEN, True)


def test_outside_of_the_sandbox_all_of_it_can_be_done(debian: Host) -> None:
    # Not all there is: what root could write to would be copied up.
    command = f"{PROGRAM} /run,/dev,/etc/custody {quoted(FORBIDDEN)}"
    lines = ("[Service]", "Type=oneshot", "RuntimeDirectory=probe", f"ExecStart={command}", "")
    debian.write("/etc/systemd/system/probe.service", "\n".join(lines))
    said = run(debian, "probe.service")
    assert {"/run/probe", "/run/lock", "/dev/shm", "/etc/custody"} <= set(said["folders"])
    assert said["files"]
    assert said["refused"] == dict.fromkeys(FORBIDDEN, False)
