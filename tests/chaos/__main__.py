"""``make chaos``: what becomes of keys and users when what the daemon stands on fails.

    make chaos
    make chaos ARGS="--only locked kills --seconds 10 --json chaos.json"
    make chaos ARGS="--only kills --count 500"

Two daemons, a durable PostgreSQL of its own, and users who do all that users can, and keep what
they were answered. Then something fails, is cured, all are served again, and everything is held
against what they were answered (``tests/checker.py``). How to read the table:

``faults``    how often it failed
``requests``  of users, all in all
``errors``    of these, those that were not served: a 503, or no answer; by code below the table
``lost``      keys and changes that were acknowledged and are not there, or are others: 0
``wrong``     answers that the contract does not have, audit rows that are no answer's, or answers
              without their row, CHECKs and seals that do not hold, connections that did not come
              back, and users who were not served where all should be: 0
``back s``    seconds from the cure to the end of the last request that failed; of several, the most

The exit code is 1 where anything was lost or wrong, or a secret stands in a log.
"""

import argparse
import asyncio
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from tests import leaks
from tests.bench.table import write_json
from tests.chaos import clock, dba, kills, process, server
from tests.chaos.fault import Fault
from tests.chaos.play import play_all
from tests.chaos.table import show


def pick(only: Sequence[str], count: int, seed: int) -> list[Fault]:
    """Return those whose name holds one of the texts; all of them where there is none."""
    random = kills.faults(count, seed)
    there = [*server.FAULTS, *dba.FAULTS, *process.FAULTS, *clock.FAULTS, *random]
    found = [one for one in there if not only or any(text in one.name for text in only)]
    if not found:
        raise SystemExit(f"--only: nothing of that name; there are: {[one.name for one in there]}")
    return found


def main() -> int:
    """Run it.

    Returns:
        The exit code: 1 where something was lost or wrong.
    """
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make chaos", description=text)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each fault")
    parser.add_argument("--count", type=int, default=0, help="of the random kills")
    parser.add_argument("--seed", type=int, default=1, help="of the random kills")
    parser.add_argument("--only", nargs="+", default=[], help="what has one of these in its name")
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    chosen = parser.parse_args()
    results = asyncio.run(play_all(pick(chosen.only, chosen.count, chosen.seed), chosen.seconds))
    _, size, leaked = leaks.search()
    sys.stdout.write(show(results))
    sys.stdout.write(f"secrets in {size} bytes of logs: {len(leaked)}\n")
    write_json(chosen.json, {"results": [dataclasses.asdict(one) for one in results]})
    return int(bool(leaked) or not all(one.is_good for one in results))


if __name__ == "__main__":
    sys.exit(main())
