"""``make bench-audit``: the audit table beside one partitioned by time, at ten million rows.

What matters: does adding a row get dearer as the table grows; what do the indexes take; what does
it cost to find a user's rows; and what does it cost to let go of the oldest twelfth.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from tests.bench.audit_rows import DAYS, PARTITIONS, TABLE, add_rows, partition, size
from tests.bench.load import Load
from tests.bench.pgbench import RECORD, Pgbench
from tests.bench.rounds import Target, measure
from tests.bench.stage import Stage, stage
from tests.bench.table import show, write_json
from tests.bench.users import FIRST
from tests.servers import Database, new_database

EMPTY, ONE, PARTS = "empty table", "one table", "partitioned"
_SECONDS = 3600
_HISTORY = f"SELECT * FROM {TABLE} WHERE user_id = $1 ORDER BY created_at DESC LIMIT 50"  # noqa: S608
_LOOKS = 200


async def bench(chosen: argparse.Namespace) -> None:
    """Measure, and print."""
    async with stage() as on:
        about = await on.describe()
        about |= {"audit rows": f"{chosen.rows:,}", "of users": f"{chosen.users:,}"}
        async with (
            new_database(on.server) as empty,
            new_database(on.server) as one,
            new_database(on.server) as parts,
        ):
            await partition(parts)
            shapes = {ONE: one, PARTS: parts}
            facts = {name: await _fill(shape, chosen) for name, shape in shapes.items()}
            inserts = await asyncio.to_thread(_inserts, on, {EMPTY: empty, **shapes}, chosen)
            for name, shape in shapes.items():
                facts[name]["history of a user, ms"] = await _history(shape, chosen.users)
            facts[ONE] |= await _forget(one, _delete)
            facts[PARTS] |= await _forget(parts, _drop)
    sys.stdout.write(show(inserts, about) + _text(facts))
    write_json(chosen.json, {"about": about, "rows": inserts, "facts": facts})


async def _fill(database: Database, chosen: argparse.Namespace) -> dict[str, Any]:
    rates = await add_rows(database, chosen.rows, chosen.users)
    sizes = await size(database)
    return {
        "rows/s added in bulk, first part": round(rates[0]),
        "rows/s added in bulk, last part": round(rates[-1]),
        **{f"MiB: {what}": mib for what, mib in sizes.items()},
    }


def _inserts(
    on: Stage, shapes: Mapping[str, Database], chosen: argparse.Namespace
) -> Sequence[Any]:
    """Measure one committed audit row a transaction, as the daemon adds them."""

    def target(name: str, database: Database) -> Target:
        pgbench = Pgbench(database, chosen.users)

        def run(clients: int, seconds: float) -> Load:
            return pgbench.run(RECORD, clients, seconds)

        return Target(name, run, None, {} if name == EMPTY else {"empty": EMPTY})

    return measure(
        [target(f"{name}", database) for name, database in shapes.items()],
        chosen.connections,
        rounds=chosen.rounds,
        seconds=chosen.seconds,
        beside={"pg": on.server_pid},
    )


async def _history(database: Database, users: int) -> float:
    """Return the milliseconds in which a user's last rows are found, median."""
    times = []
    async with database.connect() as superuser:
        for number in range(_LOOKS):
            user = str(FIRST + number * users // _LOOKS)
            began = time.perf_counter()
            await superuser.fetch(_HISTORY, user)
            times.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(times), 2)


async def _forget(database: Database, how: Any) -> dict[str, Any]:
    """Let go of the oldest twelfth, and say what that cost."""
    rows = await database.value(f"SELECT count(*) FROM {TABLE}")  # noqa: S608
    before = await database.value("SELECT pg_current_wal_lsn()")
    began = time.perf_counter()
    async with database.connect() as superuser:
        await how(superuser)
    seconds = time.perf_counter() - began
    written = await database.value("SELECT pg_current_wal_lsn() - $1::pg_lsn", before)
    left = await database.value(f"SELECT count(*) FROM {TABLE}")  # noqa: S608
    sizes = await size(database)
    return {
        "oldest rows let go": rows - left,
        "  seconds": round(seconds, 2),
        "  MiB of WAL": round(int(written) / 2**20, 1),
        "  MiB of table and indexes then": round(sum(sizes.values()), 1),
    }


async def _delete(superuser: Any) -> None:
    age = f"now() - interval '{DAYS} days' * {PARTITIONS - 1} / {PARTITIONS}"
    await superuser.execute(f"DELETE FROM {TABLE} WHERE created_at < {age}", timeout=_SECONDS)  # noqa: S608
    await superuser.execute(f"VACUUM {TABLE}", timeout=_SECONDS)


async def _drop(superuser: Any) -> None:
    await superuser.execute("DROP TABLE auth.audit_0")


def _text(facts: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for one in facts.values() for name in one))
    wide = max(map(len, names))
    lines = ["", " " * wide + "".join(f"{shape:>16}" for shape in facts)]
    for name in names:
        cells = (one.get(name, "") for one in facts.values())
        lines.append(f"{name:<{wide}}" + "".join(f"{_number(cell):>16}" for cell in cells))
    return "\n".join([*lines, ""])


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def main() -> None:
    """Run it."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make bench-audit", description=text)
    parser.add_argument("--rows", type=int, default=10_000_000, help="a year of them")
    parser.add_argument("--users", type=int, default=1_000_000, help="whose they are")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each single measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    asyncio.run(bench(parser.parse_args()))


if __name__ == "__main__":
    main()
