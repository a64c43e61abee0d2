"""Fixtures that more than one folder of tests uses."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import pytest_asyncio
import structlog

from custody.development.postgres import EmbeddedPostgres
from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from tests import leaks
from tests.bao_server import Bao, bao_server
from tests.client import Client, client_session
from tests.db.embedded_server import open_folder
from tests.kek.clouds import Clouds, cloud_stubs
from tests.moto_server import Moto, moto_server
from tests.servers import (
    Daemon,
    Database,
    daemon_beside,
    daemon_here,
    new_database,
    postgres_server,
)
from tests.tokens import Issuer
from tests.tracing import ask_for_greenlets_in_the_main_thread_only

ask_for_greenlets_in_the_main_thread_only()


@pytest.fixture(scope="session", autouse=True)
def _debug_log() -> Iterator[None]:
    """Log at debug level into the folder that the search for secrets reads."""
    path = leaks.LOGS / f"process-{os.getpid()}.log"
    with path.open("a", encoding="utf-8") as stream:
        configure(LogLevel.DEBUG, LogFormat.JSON, stream)
        yield


@pytest.fixture(autouse=True)
def _log_is_left_as_it_was() -> Iterator[None]:
    """What a later test logs must reach the search for secrets."""
    before = structlog.get_config()["logger_factory"]
    yield
    assert structlog.get_config()["logger_factory"] is before


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL for this test process, with a migrated template database."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    """An OpenBao for this test process; each test makes keys of its own."""
    with bao_server(tmp_path_factory.mktemp("bao")) as server:
        yield server


@pytest.fixture(scope="module")
def own_bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    """An OpenBao that the tests of a module may kill."""
    with bao_server(tmp_path_factory.mktemp("own-bao")) as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    """A KMS for this test process; each test makes keys of its own."""
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clouds]:
    """Stubs of other KMS for this test process; each test makes keys of its own."""
    with cloud_stubs(tmp_path_factory.mktemp("clouds")) as stubs:
        yield stubs


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """A fresh migrated database."""
    async with new_database(postgres) as made:
        yield made


@pytest.fixture
async def empty(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """A database that was never migrated."""
    async with new_database(postgres, "template0") as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """A fresh migrated database for all tests of a module."""
    async with new_database(postgres) as made:
        yield made


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder that the server's user may enter."""
    with open_folder() as path:
        yield path


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    """A token issuer."""
    return Issuer()


@pytest.fixture
async def daemon(database: Database, issuer: Issuer, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon in this process on a fresh database."""
    async with daemon_here(database, issuer, tmp_path, RESET="on") as running:
        yield running


@pytest.fixture(scope="module")
def of_the_module(
    module_database: Database, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """``custody serve`` in production mode on the database of the module."""
    with daemon_beside(
        module_database, issuer, tmp_path_factory.mktemp("served"), RESET="on"
    ) as running:
        yield running


@pytest.fixture
async def device(daemon: Daemon) -> AsyncIterator[Callable[[str], Client]]:
    """Makes devices: ``device("alice")`` is the client with alice's token."""
    async with client_session() as session:
        yield cache(lambda user: Client(daemon, session, user))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Search all logs of the run for secrets, once, when every worker is done."""
    if hasattr(session.config, "workerinput"):
        return
    count, size, found = leaks.search()
    print(f"\nsecrets in logs: {len(found)} lines with one of {count} secrets in {size} bytes")  # noqa: T201
    if found:
        print("\n".join(found[:20]))  # noqa: T201
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
