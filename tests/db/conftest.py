"""Fixtures of the tests of the database."""

import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.engine import Dsn, create_engine
from custody.development.postgres import EmbeddedPostgres
from tests.db.connecting import engine_of
from tests.servers import TEMPLATE, Database, postgres_server


@pytest.fixture(scope="session")
def own_server() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that tests may freeze, kill and set otherwise: each leaves it as it was."""
    with postgres_server() as server:
        yield server


@pytest.fixture
async def own_database(own_server: EmbeddedPostgres) -> AsyncIterator[Database]:
    """As ``database``, but with no connection that a killed server would take along."""
    made = Database(own_server, f"test_{secrets.token_hex(6)}")
    admin = Database(own_server, "postgres")
    await admin.execute(f"CREATE DATABASE {made.name} TEMPLATE {TEMPLATE} OWNER custody_owner")
    yield made
    await admin.execute(f"DROP DATABASE {made.name} WITH (FORCE)")


@pytest.fixture
async def engine(database: Database) -> AsyncIterator[AsyncEngine]:
    """A pool of two connections of custody_app."""
    async with engine_of(database.url("custody_app"), 2) as made:
        yield made


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[AsyncEngine]:
    """The engines that daemons of this test make, each with a pool of four."""
    made: list[AsyncEngine] = []

    def create(dsn: Dsn, **options: Any) -> AsyncEngine:
        made.append(create_engine(dsn, **options | {"pool_size": 4}))
        return made[-1]

    monkeypatch.setattr("custody.db.engine.create_engine", create)
    return made
