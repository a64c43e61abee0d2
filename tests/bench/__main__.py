"""``make bench``: the routes beside their ceilings, in one run.

    make bench
    make bench ARGS="--only key --connections 64 --seconds 5 --workers 2 --json bench.json"

What runs: a PostgreSQL of its own with default durability (looked at, printed, insisted on); the
daemon with its default settings; a process with bare aiohttp handlers; one load generator
(tests/bench/load.py); all on this machine. Each answer with a key must be the key of the user who
asked. At the end the audit rows are counted: as many as answers.

How to read the table:

``rate/s``  right answers a second, median of the rounds
``±%``      from the slowest round to the fastest, of the median: the noise of the machine
``p50…max`` milliseconds, of every answer, none left out
``errors``  all that was not a right answer; listed below the table by kind
``server %`` CPU of the process that answers (with its workers), percent of one core
``pg %``    CPU of PostgreSQL; ``load %`` of the generator
``rest %``  CPU of all else on the machine: the kernel's own, and whoever else is busy; in a run
            that is to count it is small
``MiB``     resident memory of the process that answers
``/bare``   the rate, divided by that of a bare aiohttp handler at as many connections in the same
            round; ``/token``: of one that checks the token as the daemon does; ``/pgbench``: of
            pgbench with the same statements. Medians. Compare these between machines, not rates.

``make bench-growth``, ``make bench-start``, ``make bench-commands``, ``make bench-remote-kek``,
``make bench-envelope``, ``make bench-rewrap``, ``make bench-sealer``, ``make bench-kek-faults`` and
``make chaos-callers``
measure other things; each says what in its own file.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from tests.bench import ceilings
from tests.bench.load import OK, Load, Request
from tests.bench.pgbench import READ, RECORD, Pgbench, Step
from tests.bench.rounds import Row, Target, measure
from tests.bench.stage import Stage, pid_of, port_of, stage
from tests.bench.table import report
from tests.bench.users import PATH, Users, requests_of, tokens_for
from tests.servers import Daemon, Database

BARE, CHECKED = "bare handler", "bare handler, token check"
PG_READ, PG_KEY = "pgbench: read", "pgbench: read, audit"
STATUS, KEY, INIT = "GET /status", "GET /key", "POST /init"
AUDITED = (KEY, INIT)


class Targets:
    """All that is measured.

    Args:
        on: the stage.
        users: whose requests are sent.
        database: with them.
    """

    def __init__(self, on: Stage, users: Users, database: Database) -> None:
        self._on = on
        self._pgbench = Pgbench(database, users.count)
        self._tokens = tokens_for(on.issuer, [user for user, _ in users])
        self.asked = 0

    def bare(self, served: ceilings.Ceilings) -> list[Target]:
        """Return the ceilings of aiohttp and of the database."""
        bare = self._requests("GET", ceilings.BARE)
        checked = self._requests("GET", ceilings.CHECKED)
        return [
            self._http(BARE, bare, served.port, served.pid, {}),
            self._http(CHECKED, checked, served.port, served.pid, {"bare": BARE}),
            self._sql(PG_READ, READ),
            self._sql(PG_KEY, [*READ, *RECORD]),
        ]

    def routes(self, daemon: Daemon) -> list[Target]:
        """Return the daemon's routes."""
        port, pid = port_of(daemon), pid_of(daemon)
        http = {"bare": BARE, "token": CHECKED}
        read, key = {**http, "pgbench": PG_READ}, {**http, "pgbench": PG_KEY}
        return [
            self._http(STATUS, self._requests("GET", f"{PATH}/status"), port, pid, read),
            self._http(KEY, self._requests("GET", f"{PATH}/key", key=True), port, pid, key),
            self._http(INIT, self._requests("POST", f"{PATH}/init", key=True), port, pid, key),
        ]

    def _requests(self, method: str, target: str, *, key: bool = False) -> list[Request]:
        return requests_of(self._tokens, method, target, key=key)

    def _http(
        self, name: str, requests: list[Request], port: int, pid: int, compared: dict[str, str]
    ) -> Target:
        def run(connections: int, seconds: float) -> Load:
            load = self._on.generator.run(port, requests, connections, seconds)
            if name in AUDITED:
                self.asked += load.statuses.get(OK, 0)
            return load

        return Target(name, run, pid, compared)

    def _sql(self, name: str, steps: Sequence[Step]) -> Target:
        return Target(name, lambda clients, seconds: self._pgbench.run(steps, clients, seconds))


async def bench(chosen: argparse.Namespace) -> None:
    """Measure, and print."""
    users = Users(chosen.users)
    settings = {} if chosen.workers is None else {"WORKERS": str(chosen.workers)}
    async with stage() as on:
        about = await on.describe()
        async with on.users(users) as database:
            with contextlib.ExitStack() as stack:
                daemon = stack.enter_context(on.daemon(database, **settings))
                jwks = Path(daemon.settings["CUSTODY_JWKS_FILE"])
                served = stack.enter_context(ceilings.ceilings(on.issuer, jwks))
                targets = Targets(on, users, database)
                picked = pick([*targets.bare(served), *targets.routes(daemon)], chosen.only)
                rows = await asyncio.to_thread(
                    measure,
                    picked,
                    chosen.connections,
                    rounds=chosen.rounds,
                    seconds=chosen.seconds,
                    beside={"pg": on.server_pid},
                )
            recorded = await _answers_on_record(database)
    about |= {"users": chosen.users, "daemon processes": chosen.workers or 1}
    about |= {"rounds": chosen.rounds, "seconds of each": chosen.seconds}
    about |= {"audit rows": recorded, "answers to audit": targets.asked}
    report(rows, about, chosen.json)
    _judge(rows, recorded, targets.asked)


def pick(targets: Sequence[Target], only: Sequence[str]) -> list[Target]:
    """Return the targets whose name holds one of the texts; all of them where there is none."""
    found = [
        target
        for target in targets
        if not only or any(text.lower() in target.name.lower() for text in only)
    ]
    if not found:
        raise SystemExit(f"--only: nothing of that name; there are: {[t.name for t in targets]}")
    return found


async def _answers_on_record(database: Database) -> int:
    """Count the audit rows of answers with a key; pgbench's have a user agent of their own."""
    count: int = await database.value(
        "SELECT count(*) FROM auth.encryption_vault_audit"
        " WHERE status = 200 AND user_agent <> 'custody-bench'"
    )
    return count


def _judge(rows: Sequence[Row], recorded: int, asked: int) -> None:
    """End with an error where a figure would be worth nothing."""
    if any(row.errors for row in rows):
        raise SystemExit("not everything was answered as it should be: no figure counts")
    if recorded != asked:
        raise SystemExit(f"{recorded} audit rows for {asked} answers")


def main() -> None:
    """Run it."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make bench", description=text)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each single measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--workers", type=int, help="CUSTODY_WORKERS of the daemon")
    parser.add_argument("--only", nargs="+", default=[], help="what has one of these in its name")
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    asyncio.run(bench(parser.parse_args()))


if __name__ == "__main__":
    main()
