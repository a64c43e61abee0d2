"""A database as custody left it before rows were sealed: format 2, 12 users with known keys."""

import json
from typing import Any

from custody.db.engine import Dsn
from custody.db.migrate import migrate
from tests.servers import ROOT, Database

# Made by pg_dump of a database that the daemon of before had filled.
_DUMP = ROOT / "tests/vectors/format2-database.sql"
VECTORS: dict[str, Any] = json.loads(_DUMP.with_suffix(".json").read_text("utf-8"))
KEK: str = VECTORS["kek_base64"]
USERS: list[dict[str, Any]] = VECTORS["users"]


def restore(database: Database) -> None:
    """Restore it into an empty database, as an administrator does."""
    done = database.psql("postgres", "-q", "-f", str(_DUMP))
    assert done.returncode == 0, done.stderr


async def move(database: Database) -> tuple[str, ...]:
    """Restore it, and migrate it; return the migrations that were missing."""
    restore(database)
    return await migrate(Dsn(database.url("custody_owner")))
