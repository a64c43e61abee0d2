"""``make bench-rotation``: how long it takes to bring everybody to another KEK, in turn.

Shallow, in envelope mode: the data keys go to another KEK, and no row is touched; over few users
and over many, since it shall not depend on their number. Plain, in direct mode: every row is
wrapped under the other KEK. Deep, in envelope mode: every row is wrapped and sealed under a new
data key. Each is one ``custody rewrap run``, from exec to exit, on a fresh copy of the rows.
"""

import argparse
import asyncio
import base64
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from custody.datakeys.envelope import Envelope
from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from kek_backends.loader import load
from tests.bench.rewrap import Keys
from tests.bench.stage import Stage, stage
from tests.datakeys import FixedRing
from tests.many_rows import copy_rows
from tests.sealed_rows import data_key_of
from tests.servers import Database, new_database

OLD, NEW = "env:OLD_KEK?id=bench-v1", "env:NEW_KEK?id=bench-v2"
_LONGEST_SECONDS = 600


@dataclass(frozen=True)
class Case:
    """A way to another KEK.

    Args:
        name: for the table.
        mode: of the KEK.
        users: how many.
        options: of the run.
    """

    name: str
    mode: str
    users: int
    options: tuple[str, ...] = ()

    @property
    def keks(self) -> tuple[str, str]:
        """URIs of the KEK of before and of the one after."""
        return f"{OLD}&mode={self.mode}", f"{NEW}&mode={self.mode}"


@dataclass(frozen=True)
class Took:
    """What a run took.

    Args:
        seconds: from exec to exit.
        rows: that it has brought over.
        working: seconds from its beginning to its end, as the database has them.
    """

    seconds: float
    rows: int
    working: float


def cases(few: int, many: int) -> list[Case]:
    """Return what is measured, in turn."""
    return [
        Case(f"shallow, {few:,} users", "envelope", few),
        Case(f"shallow, {many:,} users", "envelope", many),
        Case(f"plain, {many:,} users", "direct", many),
        Case(f"deep, {many:,} users", "envelope", many, ("--deep",)),
    ]


@asynccontextmanager
async def rows_of(on: Stage, case: Case, environ: dict[str, str]) -> AsyncIterator[Database]:
    """Make a database with users under the KEK of before."""
    kek = load(OLD, environ=environ, development=False)
    async with new_database(on.server) as database:
        await data_key_of(database, kek)
        wraps = Envelope(FixedRing.of(), kek.uri) if case.mode == "envelope" else kek
        await copy_rows(database, wraps, Keys(case.users))
        yield database


async def take(on: Stage, template: Database, case: Case, environ: dict[str, str]) -> Took:
    """Measure one run on a copy of a database."""
    old, new = case.keks
    async with new_database(on.server, template.name) as database:
        await database.execute("CHECKPOINT")
        variables = environ | {
            "PATH": os.environ["PATH"],
            "CUSTODY_KEK": new,
            "CUSTODY_OLD_KEKS": old,
            "CUSTODY_REWRAP_DATABASE_URL": database.url("custody_rewrap"),
        }
        began = time.perf_counter()
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "custody", "rewrap", "run", "--json", *case.options],
            env=variables,
            capture_output=True,
            text=True,
            timeout=_LONGEST_SECONDS,
            check=False,
        )
        seconds = time.perf_counter() - began
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["failed"] == 0
        working = await database.value(
            "SELECT extract(epoch FROM ended_at - started_at)::float8 FROM auth.rewrap_runs"
        )
    return Took(seconds, said["done"], working)


async def run(chosen: argparse.Namespace) -> None:
    """Measure, and print."""
    environ = {
        name: base64.b64encode(secrets.token_bytes(32)).decode() for name in ("OLD_KEK", "NEW_KEK")
    }
    found: dict[str, list[Took]] = {}
    async with stage() as on:
        about = await on.describe()
        for case in cases(chosen.few, chosen.many):
            async with rows_of(on, case, environ) as template:
                found[case.name] = [
                    await take(on, template, case, environ) for _ in range(chosen.rounds)
                ]
    sys.stdout.write("".join(f"{name}: {what}\n" for name, what in about.items()))
    sys.stdout.write(f"{'':28}{'seconds':>9}{'rows':>10}{'rows/s':>10}\n")
    for name, rounds in found.items():
        middle = sorted(rounds, key=lambda one: one.seconds)[len(rounds) // 2]
        rate = statistics.median(one.rows / one.working for one in rounds)
        shown = f"{rate:>10,.0f}" if middle.rows else f"{'-':>10}"
        sys.stdout.write(f"{name:28}{middle.seconds:>9.2f}{middle.rows:>10,}{shown}\n")
    if chosen.json:
        said = {name: [vars(one) for one in rounds] for name, rounds in found.items()}
        chosen.json.write_text(json.dumps({"about": about, "runs": said}), "utf-8")


def main() -> None:
    """Run it."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make bench-rotation", description=text)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--few", type=int, default=1_000, help="users")
    parser.add_argument("--many", type=int, default=100_000, help="users")
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
