"""The unit files: what systemd's own tools say of them."""

import re
from collections.abc import Iterator

import pytest

from tests.servers import ROOT
from tests.systemd.installation import CHECKOUT, install_units
from tests.systemd.throwaway import Bind, System, throwaway

UNITS = sorted(path.name for path in (ROOT / "systemd").glob("custody*.*"))
SERVICES = [name for name in UNITS if name.endswith(".service")]
MOST_EXPOSED = 1.3
# What the daemon alone has: a folder for the metrics of several processes.
_DAEMON_ALONE = {
    "RuntimeDirectory=custody",
    "RuntimeDirectoryMode=0700",
    "NoExecPaths=/run/custody",
}


@pytest.fixture(scope="module")
def system(borrowed: tuple[Bind, ...]) -> Iterator[System]:
    with throwaway([CHECKOUT, *borrowed]) as made:
        install_units(made)
        yield made


def sandbox(unit: str) -> set[str]:
    """Return the lines below "The sandbox", without comments."""
    text = (ROOT / "systemd" / unit).read_text("utf-8").partition("# The sandbox")[2]
    section = text.partition("\n[")[0].partition("\n")[2]
    return {line for line in section.splitlines() if line and not line.startswith("#")}


@pytest.mark.timeout(600)
def test_systemd_finds_nothing_wrong_with_the_units(system: System) -> None:
    paths = [f"/usr/local/lib/systemd/system/{name}" for name in UNITS]
    done = system.run("systemd-analyze", "verify", "--recursive-errors=no", *paths)
    assert done.stdout + done.stderr == ""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("unit", SERVICES)
def test_exposure_is_low(unit: str, system: System, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("systemd-analyze", "security", "--no-pager", "--offline=true")
    said = system.run(*asked, unit.replace("@.", "@custody.")).stdout
    figure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert figure is not None
    with capsys.disabled():
        print(f"\n{unit}: exposure {figure[1]}")  # noqa: T201
    assert float(figure[1]) <= MOST_EXPOSED


@pytest.mark.parametrize("unit", SERVICES)
def test_every_service_is_in_the_sandbox_of_the_daemon(unit: str) -> None:
    assert sandbox(unit) | _DAEMON_ALONE == sandbox("custody.service")


@pytest.mark.timeout(600)
def test_the_folders_of_credentials_are_roots_alone(system: System) -> None:
    for folder in ("/etc/custody/keks", "/etc/credstore.encrypted"):
        assert system.run("stat", "--format=%U %a", folder).stdout == "root 700\n"


@pytest.mark.timeout(600)
def test_enabling_the_daemon_enables_its_socket(system: System) -> None:
    timers = ("custody-rewrap.timer", "custody-drill.timer", "custody-verify.timer")
    system.run("systemctl", "enable", "custody", *timers)
    for unit in ("custody.service", "custody.socket", *timers):
        assert system.run("systemctl", "is-enabled", unit).stdout == "enabled\n"
