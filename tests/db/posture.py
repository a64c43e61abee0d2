"""What the daemon finds wrong with a database, and what tests make wrong: roles, and migrations."""

import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from custody.db.posture import Duty, PostureProblem, find_problems
from custody.db.queries import folder
from tests.db.connecting import engine_of
from tests.servers import Database


@asynccontextmanager
async def login(database: Database, *groups: str) -> AsyncIterator[tuple[str, str]]:
    """Make a login role that is a plain member of others; yields its name and its URL."""
    name = f"login_{secrets.token_hex(4)}"
    await database.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    for group in groups:
        await database.execute(f"GRANT {group} TO {name}")
    try:
        yield name, f"postgresql://{name}:x@127.0.0.1:{database.server.port}/{database.name}"
    finally:
        await database.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


async def problems_of(url: str, duty: Duty = "custody_app") -> tuple[PostureProblem, ...]:
    """Look as the daemon does."""
    async with engine_of(url) as engine:
        return await find_problems(engine, duty)


def migrate_by_psql(database: Database, *options: str) -> None:
    """Run all files of the migrations."""
    for file in sorted((folder() / "migrations").glob("*.sql")):
        done = database.psql("custody_owner", *options, "-f", str(file))
        assert done.returncode == 0, done.stderr


def migrations_until(last: str, place: Path) -> Path:
    """Copy the migrations to a place, as they were when the one of this number was the last."""
    for file in (folder() / "migrations").glob("*.sql"):
        if file.stem[:4] <= last:
            shutil.copy(file, place)
    return place
