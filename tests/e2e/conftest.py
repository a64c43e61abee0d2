"""Daemons as processes of their own, one or two of them on one database."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.client import Client, client_session
from tests.moto_server import Moto, moto_server
from tests.servers import Daemon, Database, daemon_beside
from tests.tokens import Issuer


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    """A KMS for this test process; each test makes keys of its own."""
    with moto_server() as server:
        yield server


@pytest.fixture
async def served(database: Database, issuer: Issuer, tmp_path: Path) -> AsyncIterator[Daemon]:
    """``custody serve`` in production mode on a fresh database."""
    with daemon_beside(database, issuer, tmp_path) as running:
        yield running


@pytest.fixture
async def pair(
    served: Daemon, database: Database, issuer: Issuer, tmp_path: Path
) -> AsyncIterator[tuple[Daemon, Daemon]]:
    """Two daemons on one database."""
    with daemon_beside(database, issuer, tmp_path) as other:
        yield served, other


@pytest.fixture
async def client(served: Daemon) -> AsyncIterator[Callable[[str], Client]]:
    """Makes devices of the daemon ``served``."""
    async with client_session() as session:
        yield lambda user: Client(served, session, user)
