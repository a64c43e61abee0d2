"""``make bench-scale``: what a user takes and a login writes: the arithmetic of docs/scale.md.

Bytes, not seconds: they are the same on every machine, and whatever else runs there.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from tests.bench.audit_rows import TABLE as AUDIT
from tests.bench.stage import Stage, port_of, stage
from tests.bench.users import PATH, Users, requests_of, tokens_for
from tests.partitions import TABLE as VAULTS
from tests.servers import Database, settings_for

_CALLERS = 1_000
_REWRAP_SECONDS = 600
_NEW_KEK = "bmV3LWtlay1vZi1iZW5jaC1zY2FsZS0zMi1ieXRlcyE="


async def bench(chosen: argparse.Namespace) -> dict[str, float]:
    """Measure."""
    users = Users(chosen.users)
    async with stage() as on, on.users(users) as database:
        await database.execute(f"VACUUM ANALYZE {VAULTS}")
        found = {"bytes of a vault, indexes included": await _bytes(database, VAULTS) / users.count}
        for connections in (1, 64):
            for when in ("after a checkpoint", "later"):
                if when != "later":
                    await database.execute("CHECKPOINT")
                wal = await _login(on, database, users, connections, chosen.seconds)
                found[f"bytes of WAL a login, {connections} at once, {when}"] = wal
        rows = await database.value(f"SELECT count(*) FROM {AUDIT}")  # noqa: S608 - a constant
        found["bytes of an audit row, indexes included"] = await _bytes(database, AUDIT) / rows
        await database.execute("CHECKPOINT")
        found["bytes of WAL a re-wrapped row"] = await _rewrap(on, database, users.count)
        found["bytes of a vault after a re-wrap"] = await _bytes(database, VAULTS) / users.count
    return found


async def _bytes(database: Database, table: str) -> float:
    return float(await database.value("SELECT pg_total_relation_size($1::regclass)", table))


async def _wal(database: Database) -> float:
    return float(await database.value("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))


async def _login(
    on: Stage, database: Database, users: Users, connections: int, seconds: float
) -> float:
    requests = requests_of(
        tokens_for(on.issuer, users.some(_CALLERS)), "GET", f"{PATH}/key", key=True
    )
    with on.daemon(database) as daemon:
        before = await _wal(database)
        load = await asyncio.to_thread(
            on.generator.run, port_of(daemon), requests, connections, seconds
        )
    logins = load.statuses.get(200, 0)
    if load.broken or load.wrong or not logins or len(load.statuses) > 1:
        raise SystemExit("not everything was answered as it should be: no figure counts")
    return (await _wal(database) - before) / logins


async def _rewrap(on: Stage, database: Database, rows: int) -> float:
    before = await _wal(database)
    settings = settings_for(database, on.issuer, on.folder) | {
        "PATH": os.environ["PATH"],
        "NEW_KEK": _NEW_KEK,
        "CUSTODY_REWRAP_DATABASE_URL": database.url("custody_rewrap"),
        "CUSTODY_KEK": "env:NEW_KEK?id=bench-v2",
        "CUSTODY_OLD_KEKS": "env:MANA_AUTH_KEK",
    }
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "custody", "rewrap", "run", "--json"],
        env=settings,
        capture_output=True,
        text=True,
        timeout=_REWRAP_SECONDS,
        check=False,
    )
    if done.returncode or json.loads(done.stdout)["done"] != rows:
        raise SystemExit(f"the re-wrap did not end well: {done.stderr}")
    return (await _wal(database) - before) / rows


def main() -> None:
    """Run it."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make bench-scale", description=text)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    chosen = parser.parse_args()
    found = asyncio.run(bench(chosen))
    sys.stdout.write("".join(f"{what:52}{value:>10,.0f}\n" for what, value in found.items()))
    if chosen.json:
        chosen.json.write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main()
