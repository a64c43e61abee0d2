"""``make chaos-callers``: what honest users notice while others attack the daemon.

    make chaos-callers
    make chaos-callers ARGS="--only slow huge --json chaos.json"

Each attack has a daemon of its own, as it is in production, and goes like this: honest users ask
for their keys (200 requests a second, most on eight connections that stay, some on new ones); they
are looked at undisturbed; attackers come, from other addresses, in a process of their own, for ten
seconds; they go, and it is seen when all is as it was.

How to read the table:

``asked``     requests of honest users during the attack
``errors``    all that was not the right answer in time; there must be none
``p50, p99``  milliseconds that those took
``/before``   the p99 by the undisturbed one of a moment before: 3 at most
``livez s``   seconds to the latest answer of /livez; ``readyz s``: of /readyz: 1 at most
``back s``    seconds from the end of the attack until honest users have seen nothing unusual for
              1.5 s, and the daemon has let go of the attackers' connections: 5 at most
``daemon %``  CPU of the daemon during the attack, percent of one core; ``rest %``: of what has
              nothing to do with it. Where that is large, wait for a quieter hour

Below it stands for each attack what the attackers did, and what came back. The exit code is 1 where
a bound is not held.
"""

import argparse
import asyncio
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from tests.bench.chaos.attacks import ATTACKS
from tests.bench.chaos.measure import measure
from tests.bench.chaos.scene import USERS, JwksServer, attacking, scene
from tests.bench.chaos.swarm import Attack
from tests.bench.chaos.table import show
from tests.bench.chaos.verdict import Row, failures
from tests.bench.stage import Stage, stage
from tests.bench.table import write_json
from tests.http_servers import serving
from tests.servers import Database


async def attacked(
    on: Stage, database: Database, jwks: JwksServer, attack: Attack, chosen: argparse.Namespace
) -> Row:
    """Measure one attack on a daemon of its own."""
    with scene(on, database, jwks, attack) as played:
        jwks.hangs = attack.jwks_hangs
        try:
            row = await measure(
                attack, played.target, attacking, before=chosen.before, seconds=chosen.seconds
            )
        finally:
            jwks.hangs = False
        ended = played.process.poll() is not None
    return dataclasses.replace(row, logged=played.logged(), ended=ended)


async def run(chosen: argparse.Namespace) -> list[Row]:
    """Measure all that was chosen."""
    attacks = pick(chosen.only)
    rows = []
    async with stage() as on, on.users(USERS) as database:
        about = await on.describe()
        with serving(JwksServer(on.issuer)) as jwks:
            for attack in attacks:
                sys.stderr.write(f"{attack.name}…\n")
                rows.append(await attacked(on, database, jwks, attack, chosen))
    about |= {"seconds of each attack": chosen.seconds, "undisturbed before": chosen.before}
    sys.stdout.write(show(rows, about))
    judged = [dataclasses.asdict(row) | {"failures": failures(row)} for row in rows]
    write_json(chosen.json, {"about": about, "rows": judged})
    return rows


def pick(only: Sequence[str]) -> list[Attack]:
    """Return the attacks whose name holds one of the texts; all of them where there is none."""
    found = [one for one in ATTACKS if not only or any(text in one.name for text in only)]
    if not found:
        raise SystemExit(f"--only: nothing of that name; there are: {[a.name for a in ATTACKS]}")
    return found


def main() -> int:
    """Run it.

    Returns:
        The exit code: 1 where a bound is not held.
    """
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make chaos-callers", description=text)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each attack")
    parser.add_argument("--before", type=float, default=20.0, help="seconds without an attack")
    parser.add_argument("--only", nargs="+", default=[], help="what has one of these in its name")
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    return int(any(failures(row) for row in asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    sys.exit(main())
