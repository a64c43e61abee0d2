"""Daemons as processes of their own, one or two of them on one database."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e import quick
from tests.e2e.front import SETTINGS, Front, front
from tests.proofs import FULL
from tests.proxies import KINDS
from tests.servers import Daemon, Database, daemon_beside
from tests.tokens import Issuer

_EMPTY = "TRUNCATE auth.encryption_vaults, auth.encryption_vault_audit, auth.users"


@pytest.fixture
async def served(database: Database, issuer: Issuer, tmp_path: Path) -> AsyncIterator[Daemon]:
    """``custody serve`` in production mode on a fresh database: a test may end or break it."""
    with daemon_beside(database, issuer, tmp_path, RESET="on") as running:
        yield running


@pytest.fixture(params=["quick", pytest.param("real", marks=FULL)])
def pace(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With custody's own pauses, and with short ones for whatever waits for nothing else.

    Returns:
        The module of a daemon beside us; one in this process has the same pauses.
    """
    if request.param == "real":
        return "custody"
    for module, name, seconds in quick.SHORT:
        monkeypatch.setattr(module, name, seconds)
    return quick.__name__


@pytest.fixture(scope="module")
def second_of_the_module(
    of_the_module: Daemon, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """Another one on the same database."""
    folder = tmp_path_factory.mktemp("second")
    with daemon_beside(of_the_module.database, issuer, folder, RESET="on") as running:
        yield running


@pytest.fixture
async def daemon(of_the_module: Daemon) -> Daemon:
    """The daemon of the module, with no user yet: for tests that break nothing but rows."""
    await of_the_module.database.execute(_EMPTY)
    return of_the_module


@pytest.fixture
def pair(daemon: Daemon, second_of_the_module: Daemon) -> tuple[Daemon, Daemon]:
    """Two daemons on one database, with no user yet."""
    return daemon, second_of_the_module


@pytest.fixture(scope="module")
def behind(
    module_database: Database, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """``custody serve`` with the settings that stand in the page on proxies."""
    folder = tmp_path_factory.mktemp("behind")
    with daemon_beside(module_database, issuer, folder, **SETTINGS, RESET="on") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def at(behind: Daemon, request: pytest.FixtureRequest) -> AsyncIterator[Front]:
    """That daemon behind each of the proxies."""
    async with front(request.param, behind) as running:
        yield running
