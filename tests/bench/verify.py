"""``make bench-verify``: ``custody audit verify`` of a whole audit, beside reading its rows alone.

Rows are made as daemons make them, sealed each, of users who have a vault that the last of them
left. Each is one process: the command, and one that reads the same rows in the same pages.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from custody.audit.events import Action, Event, event_id
from custody.audit.reading import HIGHEST, LOWEST, Reader
from custody.audit.row_seal import RowSeals
from custody.audit.sealer import AuditSealer
from custody.db.engine import Dsn, open_engine
from custody.ops.alarms import Alarms
from custody.ops.logging import configure
from custody.ops.metrics import Metrics
from custody.settings import LogFormat, LogLevel
from custody.vault.key_check import key_check_value
from custody.vault.sealed_state import state_digest
from tests.bench.stage import Stage, stage
from tests.bench.users import USER_AGENT, Users
from tests.datakeys import FixedRing
from tests.many_rows import first_state
from tests.servers import Database, settings_for

_CHUNK = 100_000
_COLUMNS = ("id", "user_id", "ip_address", "user_agent", "action", "context", "status", "state")
_TABLE = "encryption_vault_audit"


def inits(users: Users) -> Iterator[Event]:
    """Return the rows of the first call of each user, which say what vault it has made."""
    for user, key in users:
        state = state_digest(user, first_state(key_check_value(user, key)))
        yield _event(user)._replace(action=Action.INIT, context="created", state=state)


def fetches(users: Users, count: int) -> Iterator[Event]:
    """Return so many rows of users who fetch their keys."""
    dice = Random(count)  # noqa: S311 - nothing secret
    names = users.some(users.count)
    for _ in range(count):
        yield _event(dice.choice(names))


def _event(user: str) -> Event:
    return Event(event_id(), user, "192.0.2.1", USER_AGENT, Action.FETCH, None, 200)


async def add(database: Database, events: Iterator[Event]) -> None:
    """Write rows as a daemon writes them, but by COPY."""
    seals = RowSeals(FixedRing.of())

    def rows() -> Iterator[tuple[Any, ...]]:
        for event in events:
            columns = event._asdict() | {"action": str(event.action)}
            yield *columns.values(), bytes.fromhex(seals.of(event) or "")

    async with database.connect() as superuser:
        await superuser.copy_records_to_table(
            _TABLE,
            schema_name="auth",
            columns=[*_COLUMNS, "seal"],
            records=rows(),
            timeout=3600,
        )


async def seal(database: Database) -> None:
    """Bring all rows that there are under a checkpoint."""
    async with open_engine(Dsn(database.url("custody_app")), pool_size=2) as engine:
        await AuditSealer(engine, FixedRing.of(), 0, Alarms(Metrics())).seal()


def process(command: list[str], environ: dict[str, str]) -> tuple[float, int]:
    """Run a command; return its seconds and its greatest memory, in MiB.

    Raises:
        SystemExit: it has failed.
    """
    began = time.perf_counter()
    child = os.posix_spawn(command[0], command, environ)
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{command[1:]}: exit status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began, used.ru_maxrss // 1024


async def bench(on: Stage, rows: int, users: Users) -> dict[str, float]:
    """Make an audit, and measure."""
    async with on.users(users) as database:
        await add(database, inits(users))
        for done in range(0, rows - users.count, _CHUNK):
            await add(database, fetches(users, min(_CHUNK, rows - users.count - done)))
            await seal(database)
        await database.execute(f"VACUUM ANALYZE auth.{_TABLE}")
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            **settings_for(database, on.issuer, on.folder),
            "CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner"),
        }
        python = [sys.executable, "-m"]
        read, _ = process([*python, "tests.bench.verify", "--read"], environ)
        verified, memory = process([*python, "custody", "audit", "verify"], environ)
    return {
        "rows": rows,
        "users": users.count,
        "verified rows/s": round(rows / verified),
        "read alone rows/s": round(rows / read),
        "MiB": memory,
    }


async def read() -> None:
    """Read the rows, and do nothing with them."""
    url = Dsn(os.environ["CUSTODY_OWNER_DATABASE_URL"])
    async with open_engine(url, pool_size=1) as engine:
        reader, first = Reader(engine), LOWEST
        while rows := await reader.rows(first, HIGHEST):
            first = rows[-1]["number"] + 1


async def run(chosen: argparse.Namespace) -> None:
    """Measure, and print."""
    async with stage() as on:
        found = await bench(on, chosen.rows, Users(chosen.users))
    sys.stdout.write("".join(f"{name}: {value:,}\n" for name, value in found.items()))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found), "utf-8")


def main() -> None:
    """Run it."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make bench-verify", description=text)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    chosen = parser.parse_args()
    asyncio.run(read() if chosen.read else run(chosen))


if __name__ == "__main__":
    main()
