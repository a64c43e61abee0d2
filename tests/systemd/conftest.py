"""Fixtures of the tests under systemd: they skip where there can be no systemd, but never in CI."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Database
from tests.systemd.host import Host, host
from tests.systemd.installation import install_custody, no_interpreter
from tests.systemd.throwaway import unavailable
from tests.tokens import Issuer


@pytest.fixture(scope="session")
def _systemd() -> None:
    need(unavailable())


@pytest.fixture(scope="session")
def installation(_systemd: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in /opt/custody, made once for all processes of a run."""
    need(no_interpreter())
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "opt-custody"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "installed"
        if not done.exists():
            folder.mkdir(mode=0o755)
            install_custody(folder)
            done.touch()
    return folder


@pytest.fixture
def debian(installation: Path, database: Database, issuer: Issuer) -> Iterator[Host]:
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
