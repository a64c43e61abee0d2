"""``make bench-growth``: GET /key as users and audit rows grow, beside pgbench on the same rows.

Each size has a database and a daemon of its own, and they are measured in turn, so that the ratio
to the least size is one of the same minute. The same number of users, picked at random, calls at
each size: what grows is the table. Two more lines: many callers, of whom the daemon has seen no
token before and PostgreSQL has likely no page at hand; and a year of audit rows beside the users.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from tests.bench.audit_rows import add_rows
from tests.bench.load import Load
from tests.bench.pgbench import READ, RECORD, Pgbench
from tests.bench.rounds import Target, measure
from tests.bench.stage import Stage, pid_of, port_of, stage
from tests.bench.table import report
from tests.bench.users import PATH, Users, requests_of, tokens_for
from tests.servers import Daemon, Database, new_database

LEAST = "least"


class Sizes:
    """What is measured, as databases and daemons are made for it.

    Args:
        on: the stage.
        callers: how many users call at each size.
    """

    def __init__(self, on: Stage, callers: int) -> None:
        self._on = on
        self._callers = callers
        self._first: dict[str, str] = {}
        self.targets: list[Target] = []

    def add(self, what: str, database: Database, daemon: Daemon, users: Users) -> None:
        """Measure a size, over HTTP and by pgbench."""
        self._add_key(what, daemon, users, self._callers)
        pgbench = Pgbench(database, users.count)

        def run(clients: int, seconds: float) -> Load:
            return pgbench.run([*READ, *RECORD], clients, seconds)

        self.targets.append(Target(f"pgbench, {what}", run, None, self._compared("pgbench", what)))

    def add_many_callers(self, what: str, daemon: Daemon, users: Users, callers: int) -> None:
        """Measure a size with so many callers."""
        self._add_key(f"{what}, {callers:,} callers", daemon, users, callers)

    def _add_key(self, what: str, daemon: Daemon, users: Users, callers: int) -> None:
        tokens = tokens_for(self._on.issuer, users.some(callers))
        requests = requests_of(tokens, "GET", f"{PATH}/key", key=True)
        port = port_of(daemon)

        def run(connections: int, seconds: float) -> Load:
            nonlocal requests
            load = self._on.generator.run(port, requests, connections, seconds)
            # The next round goes on where this one ended: with those who have not called yet.
            done = sum(load.statuses.values()) % len(requests)
            requests = requests[done:] + requests[:done]
            return load

        compared = self._compared("GET /key", what)
        self.targets.append(Target(f"GET /key, {what}", run, pid_of(daemon), compared))

    def _compared(self, kind: str, what: str) -> dict[str, str]:
        name = f"{kind}, {what}"
        first = self._first.setdefault(kind, name)
        return {} if first == name else {LEAST: first}


async def bench(chosen: argparse.Namespace) -> None:
    """Measure, and print."""
    async with stage() as on, contextlib.AsyncExitStack() as stack:
        about = await on.describe()
        sizes = Sizes(on, chosen.callers)
        filled = []
        for count in chosen.sizes:
            users = Users(count)
            filled.append((users, await stack.enter_async_context(on.users(users))))
        users, largest = filled[-1]
        what = f"{users.count:,} users"
        if chosen.audit:
            beside = await stack.enter_async_context(_with_audit(largest, chosen.audit, users))
        for some, database in filled:
            daemon = stack.enter_context(on.daemon(database))
            sizes.add(f"{some.count:,} users", database, daemon, some)
        if chosen.many_callers:
            sizes.add_many_callers(what, daemon, users, chosen.many_callers)
        if chosen.audit:
            daemon = stack.enter_context(on.daemon(beside))
            sizes.add(f"{what}, {chosen.audit:,} audit rows", beside, daemon, users)
        rows = await asyncio.to_thread(
            measure,
            sizes.targets,
            chosen.connections,
            rounds=chosen.rounds,
            seconds=chosen.seconds,
            beside={"pg": on.server_pid},
        )
    about |= {"callers": chosen.callers, "rounds": chosen.rounds, "seconds": chosen.seconds}
    report(rows, about, chosen.json)
    if any(row.errors for row in rows):
        raise SystemExit("not everything was answered as it should be: no figure counts")


@asynccontextmanager
async def _with_audit(source: Database, count: int, users: Users) -> AsyncIterator[Database]:
    """Make a copy of a database, and add audit rows."""
    async with new_database(source.server, source.name) as database:
        await add_rows(database, count, users.count)
        yield database


def main() -> None:
    """Run it."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make bench-growth", description=text)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--audit", type=int, default=10_000_000, help="audit rows; 0: none")
    parser.add_argument("--callers", type=int, default=1_000, help="users who call, at each size")
    parser.add_argument("--many-callers", type=int, default=100_000, help="0: no such line")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each single measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[64])
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    asyncio.run(bench(parser.parse_args()))


if __name__ == "__main__":
    main()
