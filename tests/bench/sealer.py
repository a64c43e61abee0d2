"""``make bench-sealer``: GET /key while the audit is sealed, beside the same without a sealer.

Two daemons on two databases of one server, in turn. The one that seals does it each second, not
each half minute: so each round has the cost of its own rows in it. Then the rows that are left, and
as many more as asked for, are sealed by one process with nothing else to do.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from pathlib import Path

from custody.audit.sealer import AuditSealer
from custody.db.engine import Dsn, open_engine
from custody.ops.alarms import Alarms
from custody.ops.logging import configure
from custody.ops.metrics import Metrics
from custody.settings import LogFormat, LogLevel
from tests.bench import ceilings
from tests.bench.load import Request
from tests.bench.rounds import Row, Run, Target, measure
from tests.bench.stage import Stage, pid_of, port_of, stage
from tests.bench.table import report
from tests.bench.users import PATH, USER_AGENT, Users, requests_of, tokens_for
from tests.datakeys import FixedRing
from tests.servers import Database

BARE, OFF, ON = "bare handler", "sealer off", "sealer on"
_INTERVALS = {OFF: "0", ON: "1"}

_ADD = """
INSERT INTO auth.encryption_vault_audit
    (id, user_id, action, ip_address, user_agent, status, seal)
SELECT gen_random_uuid()::text, 'user-' || number % 1000, 'fetch', '192.0.2.1', $2, 200,
       sha256(number::text::bytea) || '\\x01020304'::bytea
FROM generate_series(1, $1::bigint) AS number
"""


async def bench(on: Stage, chosen: argparse.Namespace) -> list[Row]:
    """Measure both in turn, then sealing alone."""
    users = Users(chosen.users)
    tokens = tokens_for(on.issuer, [user for user, _ in users])
    keys = requests_of(tokens, "GET", f"{PATH}/key", key=True)
    bare = requests_of(tokens, "GET", ceilings.BARE)
    async with contextlib.AsyncExitStack() as stack:
        daemons, databases = {}, {}
        for name, interval in _INTERVALS.items():
            databases[name] = await stack.enter_async_context(on.users(users))
            daemons[name] = stack.enter_context(
                on.daemon(databases[name], AUDIT_SEAL_INTERVAL=interval)
            )
        jwks = Path(daemons[OFF].settings["CUSTODY_JWKS_FILE"])
        served = stack.enter_context(ceilings.ceilings(on.issuer, jwks))

        def sent_to(port: int, requests: list[Request]) -> Run:
            return lambda count, seconds: on.generator.run(port, requests, count, seconds)

        targets = [Target(BARE, sent_to(served.port, bare), served.pid)]
        for name, daemon in daemons.items():
            compared = {"bare": BARE} | ({} if name == OFF else {"off": OFF})
            load = sent_to(port_of(daemon), keys)
            targets.append(Target(name, load, pid_of(daemon), compared))
        rows = await asyncio.to_thread(
            measure,
            targets,
            chosen.connections,
            rounds=chosen.rounds,
            seconds=chosen.seconds,
            beside={"pg": on.server_pid},
        )
        sys.stdout.write(f"{await _is_sealed(databases[ON])}\n")
    return rows


async def _is_sealed(database: Database) -> str:
    written = await database.value("SELECT count(*) FROM auth.encryption_vault_audit")
    sealed = await database.value("SELECT max(size) FROM auth.encryption_audit_checkpoints")
    return f"audit rows: {written}; under a checkpoint at the end of the last round: {sealed}"


async def alone(on: Stage, chosen: argparse.Namespace) -> str:
    """Seal so many rows with nothing else to do."""
    async with on.users(Users(1)) as database:
        await database.execute(_ADD, chosen.rows, USER_AGENT)
        await database.execute("VACUUM ANALYZE auth.encryption_vault_audit")
        async with open_engine(Dsn(database.url("custody_app")), pool_size=2) as engine:
            sealer = AuditSealer(engine, FixedRing.of(), 0, Alarms(Metrics()))
            began = time.perf_counter()
            sealed = await sealer.seal() or 0
            seconds = time.perf_counter() - began
    return f"sealing alone: {sealed} rows in {seconds:.2f} s, {sealed / seconds:.0f} rows/s"


async def run(chosen: argparse.Namespace) -> None:
    """Measure, and print."""
    async with stage() as on:
        about = await on.describe() | {"users": chosen.users}
        rows = await bench(on, chosen)
        sys.stdout.write(f"{await alone(on, chosen)}\n")
    report(rows, about | {"rounds": chosen.rounds, "seconds": chosen.seconds}, chosen.json)
    if any(row.errors for row in rows):
        raise SystemExit("not everything was answered as it should be: no figure counts")


def main() -> None:
    """Run it."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make bench-sealer", description=text)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each single measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=200_000, help="to seal alone")
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
