"""Fixtures of the tests under systemd: they skip where there can be no systemd, but never in CI."""

import fcntl
import os
import sys
from collections.abc import Iterator

import pytest

from tests.servers import Database
from tests.systemd.host import Host, host
from tests.systemd.installation import (
    TARGET,
    borrow_custody,
    install_custody,
    interpreter,
)
from tests.systemd.throwaway import Bind, unavailable
from tests.tokens import Issuer


@pytest.fixture(scope="session")
def _systemd() -> None:
    need(unavailable())


@pytest.fixture(scope="session")
def installed(_systemd: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bind, ...]:
    """/opt/custody as the how-to makes it, once for all processes of a run."""
    need(None if interpreter() >= (3, 11) else "no /usr/bin/python3 of 3.11 or newer")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "opt-custody"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "installed"
        if not done.exists():
            folder.mkdir(mode=0o755)
            install_custody(folder)
            done.touch()
    return (Bind(folder, TARGET, read_only=True),)


@pytest.fixture(scope="session")
def borrowed(
    _systemd: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Bind, ...]:
    """/opt/custody with the packages that run the tests, if the host's interpreter takes them."""
    need(None if interpreter() >= (3, 11) else "no /usr/bin/python3 of 3.11 or newer")
    if interpreter() != sys.version_info[:2]:
        made: tuple[Bind, ...] = request.getfixturevalue("installed")
        return made
    folder = tmp_path_factory.mktemp("opt-custody")
    folder.chmod(0o755)
    return borrow_custody(folder)


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
