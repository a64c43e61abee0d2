"""Fixtures of the tests under systemd: they skip where there can be no systemd, but never in CI."""

import fcntl
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Database
from tests.systemd.host import Host, host
from tests.systemd.howto import sections
from tests.systemd.installation import CHECKOUT, PAGE, SOURCES, TARGET
from tests.systemd.throwaway import Bind, throwaway, unavailable
from tests.tokens import Issuer

_SECONDS = 600
_PASSED_ON = re.compile(r"PIP_\w+|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|(?i:https?|no)_proxy")
_COMMAND = f"""#!{TARGET}/bin/python3
from custody.cli import main

main()
"""


@pytest.fixture(scope="session")
def _systemd() -> None:
    need(unavailable())


@pytest.fixture(scope="session")
def interpreter(_systemd: None) -> tuple[int, ...]:
    """The version of the system's Python, which users other than root may execute."""
    asked = "/usr/bin/python3 -c 'import sys; print(*sys.version_info[:2])'"
    done = subprocess.run(["sh", "-c", asked], capture_output=True, text=True, check=False)
    version = tuple(map(int, done.stdout.split()))
    need(None if version >= (3, 11) else "no /usr/bin/python3 of 3.11 or newer")
    return version


@pytest.fixture(scope="session")
def installed(
    interpreter: tuple[int, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bind, ...]:
    """/opt/custody after the section "custody" of the how-to, once for all processes of a run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "opt-custody"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (done := folder / "installed").exists():
            return (Bind(folder, TARGET, read_only=True),)
        folder.mkdir(mode=0o755)
        (commands,) = sections(PAGE)["custody"]
        environ = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
        with throwaway([CHECKOUT, Bind(folder, TARGET)]) as system:
            made = "python3 -m venv /opt/custody\n"
            if system.run("bash", "-c", made, check=False).returncode:
                # Without Debian's python3-venv: the pip of whoever runs the tests fills it.
                bare = made.replace("venv", "venv --clear --without-pip")
                pip = f"{sys.executable} -m pip --python /opt/custody/bin/python -q install pip"
                system.run("bash", "-euc", bare + pip, environ=environ, seconds=_SECONDS)
            commands = commands.replace(made, "")
            system.run("bash", "-euc", commands, environ=environ, seconds=_SECONDS)
        done.touch()
    return (Bind(folder, TARGET, read_only=True),)


@pytest.fixture(scope="session")
def borrowed(
    interpreter: tuple[int, ...],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> tuple[Bind, ...]:
    """/opt/custody with the packages that run the tests, if the host's interpreter takes them."""
    if interpreter != sys.version_info[:2]:
        made: tuple[Bind, ...] = request.getfixturevalue("installed")
        return made
    folder = tmp_path_factory.mktemp("opt-custody")
    folder.chmod(0o755)
    bare = ["/usr/bin/python3", "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(bare, check=True, timeout=60)
    (below,) = folder.glob("lib/python3*/site-packages")
    (below / "borrowed.pth").write_text(f"{SOURCES}\n{TARGET}/packages\n", "utf-8")
    command = folder / "bin/custody"
    command.write_text(_COMMAND, "utf-8")
    command.chmod(0o755)
    # By a bind: users of the host could not reach the folder itself.
    (folder / "packages").mkdir()
    packages = Bind(Path(sysconfig.get_path("platlib")), TARGET / "packages", read_only=True)
    return Bind(folder, TARGET, read_only=True), packages


@pytest.fixture
def installation(request: pytest.FixtureRequest) -> tuple[Bind, ...]:
    """/opt/custody: a proof has it from the how-to, which takes pip many seconds."""
    proves = request.node.get_closest_marker("prove")
    made: tuple[Bind, ...] = request.getfixturevalue("installed" if proves else "borrowed")
    return made


@pytest.fixture
def debian(installation: tuple[Bind, ...], database: Database, issuer: Issuer) -> Iterator[Host]:
    """A host with custody, configured and not started."""
    with host(installation, database, issuer) as made:
        yield made


def need(reason: str | None) -> None:
    """Skip a test for a reason, or fail it in CI; None: go on."""
    if reason is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"no throw-away systemd, which CI must have: {reason}", pytrace=False)
    pytest.skip(f"no throw-away systemd: {reason}")
