"""The throw-away system itself: real, private, and gone without a trace."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.eventually import soon
from tests.servers import ROOT
from tests.systemd.throwaway import Bind, NotBooted, throwaway

pytestmark = pytest.mark.usefixtures("_systemd")

_HOLD = """
import json, time
from tests.systemd.throwaway import throwaway
with throwaway() as system:
    print(json.dumps([system.init, str(system.cgroup)]), flush=True)
    time.sleep(600)
"""


def our_cgroups() -> set[str]:
    """Return the cgroups of throw-away systems, wherever cgroup2 is mounted here."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    places = [words[4] for words in mounts if words[words.index("-") + 1] == "cgroup2"]
    return {str(path) for place in places for path in Path(place).rglob("custody-tests-*")}


@pytest.mark.prove
def test_pid_1_is_a_systemd_of_its_own_with_none_of_our_units() -> None:
    with throwaway() as system:
        assert system.run("cat", "/proc/1/comm").stdout == "systemd\n"
        failed = system.run("systemctl", "list-units", "--failed", "--no-legend").stdout
        assert failed == ""
        running = system.run("systemctl", "list-units", "--no-legend", "--plain", "--type=service")
        assert [line.split()[0] for line in running.stdout.splitlines()] == [
            "systemd-journald.service"
        ]


def test_what_it_writes_is_thrown_away_but_for_what_is_shared(tmp_path: Path) -> None:
    name = f"custody-{secrets.token_hex(8)}"
    shared, kept = tmp_path / "shared", tmp_path / "read-only"
    shared.mkdir()
    kept.mkdir()
    with throwaway(
        [Bind(shared, Path("/srv/shared")), Bind(kept, Path("/srv/kept"), read_only=True)]
    ) as system:
        for folder in ("etc", "usr/bin", "var/lib", "root", "run", "dev/shm", "srv/shared"):
            system.run("touch", f"/{folder}/{name}")
            assert system.path(f"/{folder}/{name}").exists()
        assert system.run("touch", f"/srv/kept/{name}", check=False).returncode != 0
        # The machine's own switches are out of reach: asked of one, as nothing is written to it.
        switch = ("dd", "if=/dev/null", "of=/proc/sys/vm/swappiness", "conv=notrunc")
        assert "Read-only file system" in system.run(*switch, check=False).stderr
        for folder in ("etc", "usr/bin", "var/lib", "root", "run", "dev/shm"):
            assert not Path("/", folder, name).exists()
    assert (shared / name).exists()


@pytest.mark.prove
def test_a_unit_runs_fails_and_logs() -> None:
    with throwaway() as system:
        system.write(
            "/etc/systemd/system/one.service", "[Service]\nExecStart=sh -c 'echo hello; exit 7'\n"
        )
        system.run("systemctl", "start", "one")
        soon(lambda: system.show("ActiveState", unit="one") == ["failed"])
        assert system.show("ExecMainStatus", unit="one") == ["7"]
        assert "hello" in system.journal("one").splitlines()
        assert system.read("/etc/systemd/system/one.service").startswith("[Service]")


def test_a_command_that_fails_says_so_and_one_with_input_gets_it() -> None:
    with throwaway() as system:
        with pytest.raises(AssertionError, match="ended with 3"):
            system.run("sh", "-c", "exit 3")
        assert system.run("cat", stdin="words").stdout == "words"


@pytest.mark.prove
def test_several_run_at_once_and_know_nothing_of_each_other() -> None:
    with throwaway() as one, throwaway(own_network=True) as other:
        one.write("/run/mark", "one")
        assert not other.path("/run/mark").exists()
        assert one.read("/etc/machine-id") != other.read("/etc/machine-id")
        devices = other.run("cat", "/proc/net/dev").stdout.splitlines()[2:]
        assert [line.split(":")[0].strip() for line in devices] == ["lo"]
        for system in (one, other):
            assert system.run("systemctl", "is-system-running").stdout == "running\n"


@pytest.mark.prove
def test_nothing_is_left_after_it() -> None:
    with throwaway() as system:
        started = system.spawn("sleep", "600")
        assert Path(f"/proc/{system.init}").exists()
    soon(lambda: not Path(f"/proc/{system.init}").exists())
    assert started.wait(20) != 0
    assert not [path for path in our_cgroups() if path.endswith(system.cgroup.name)]


@pytest.mark.prove
@pytest.mark.parametrize("victim", ["caller", pytest.param("keeper", marks=pytest.mark.prove)])
def test_nothing_is_left_when_somebody_is_killed(victim: str) -> None:
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD], stdout=subprocess.PIPE, cwd=ROOT, env=environ
    ) as caller:
        assert caller.stdout is not None
        init, cgroup = json.loads(caller.stdout.readline())
        keeper = int(Path(cgroup).parts[2])
        killed = caller.pid if victim == "caller" else keeper
        with contextlib.suppress(ProcessLookupError):
            os.kill(killed, signal.SIGKILL)
        soon(lambda: not Path(f"/proc/{init}").exists())
        caller.kill()
    soon(lambda: not Path(f"/proc/{keeper}").exists())
    # A keeper that was killed leaves an empty cgroup. The next one removes it.
    with throwaway():
        assert not [path for path in our_cgroups() if path.endswith(Path(cgroup).name)]


def test_one_that_does_not_boot_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(NotBooted, match="No such file or directory"),
        throwaway([Bind(tmp_path / "nothing", Path("/srv/nothing"))]),
    ):
        pass
