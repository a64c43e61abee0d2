"""``make bench-rewrap``: the re-wrap worker beside its ceilings, in one run, in turn.

From one ``env:`` KEK to another: beside a deep run, the same claims and UPDATEs with no
cryptography, and a loop of one row a transaction. To a new version of an OpenBao key: beside loops
of single calls. Then the worker alone over more and more rows: its time shall grow with them, its
memory not.

PostgreSQL has its default durability. Figures are medians of three rounds; compare ratios within a
run, not numbers between machines.
"""

import argparse
import asyncio
import base64
import dataclasses
import json
import multiprocessing
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from custody.development.postgres import EmbeddedPostgres
from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from kek_backends.base import FORMAT_CURRENT, Wrap
from kek_backends.binding import Binding
from kek_backends.loader import load
from tests.bao_server import Bao, bao_server
from tests.bench.bao_wraps import encrypt
from tests.bench.rewrap_cases import Case, Measured, measure
from tests.keks import kek_of
from tests.many_rows import copy_rows
from tests.servers import Database, make_template, new_database

ROUNDS = 3
ROWS, BAO_ROWS, LOOP_ROWS = 100_000, 20_000, 1_000
SCALE = (10_000, 100_000)
LARGE = 1_000_000

OLD, NEW = "env:OLD_KEK?id=bench-v1", "env:NEW_KEK?id=bench-v2"


@dataclass(frozen=True, slots=True)
class Source:
    """Rows, and where they shall go.

    Args:
        database: with the rows; each measurement has a copy of its own.
        active: URI of the KEK to bring them to.
        old: URIs of the others.
        environ: what the KEKs read.
    """

    database: Database
    active: str
    old: tuple[str, ...]
    environ: dict[str, str]

    async def measure(self, kind: str, rows: int) -> Measured:
        """Measure one kind of work, on fresh rows."""
        server = self.database.server
        async with new_database(server, self.database.name) as fresh:
            await fresh.execute("CHECKPOINT")
            url = fresh.url("custody_rewrap")
            case = Case(kind, url, self.active, self.old, self.environ, rows)
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                return await asyncio.get_running_loop().run_in_executor(pool, measure, case)


class Keys:
    """Users and master keys, made anew each time they are asked for, always the same ones.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for number in range(self._count):
            yield f"user-{number:08}", number.to_bytes(4) * 8


@asynccontextmanager
async def local_rows(server: EmbeddedPostgres, count: int) -> AsyncIterator[Source]:
    """Make rows under one local KEK, to be brought to another."""
    environ = {
        name: base64.b64encode(secrets.token_bytes(32)).decode() for name in ("OLD_KEK", "NEW_KEK")
    }
    async with new_database(server) as database:
        await copy_rows(database, load(OLD, environ=environ, development=False), Keys(count))
        yield Source(database, NEW, (OLD,), environ)


@asynccontextmanager
async def bao_rows(server: EmbeddedPostgres, bao: Bao, count: int) -> AsyncIterator[Source]:
    """Make rows under the first version of a transit key, to be brought to the second."""
    name = await asyncio.to_thread(bao.make_key)
    wraps = await asyncio.to_thread(encrypt, bao, name, Keys(count))

    async def ready(binding: Binding, _key: bytes) -> Wrap:
        return Wrap(wraps[binding.subject], "", FORMAT_CURRENT, f"vault:transit/{name}:v1")

    async with new_database(server) as database:
        environ = await asyncio.to_thread(bao.environ, name)
        async with kek_of(f"vault:transit/{name}", environ) as kek:
            await copy_rows(database, kek, Keys(count), ready)
        await asyncio.to_thread(bao.rotate, name)
        yield Source(database, f"vault:transit/{name}", (), environ)


async def compare(source: Source, kinds: dict[str, tuple[str, int]]) -> dict[str, Measured]:
    """Measure kinds of work in turn.

    Args:
        source: the rows.
        kinds: for each name the kind, and over how many rows.

    Returns:
        For each name the round of the median rate.
    """
    rounds: dict[str, list[Measured]] = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        for name, (kind, rows) in kinds.items():
            rounds[name].append(await source.measure(kind, rows))
    return {name: _median(found) for name, found in rounds.items()}


def _median(found: list[Measured]) -> Measured:
    return sorted(found, key=lambda one: one.rate)[len(found) // 2]


async def run(server: EmbeddedPostgres, bao: Bao, *, large: bool) -> list[dict[str, object]]:
    """Measure everything; return one row for each line of the table."""
    await make_template(server)
    await asyncio.to_thread(server.grant_logins)
    rows = []
    async with local_rows(server, ROWS) as source:
        kinds = {
            "env to env: the worker": ("worker", ROWS),
            "  deep": ("deep", ROWS),
            "  no cryptography": ("bare", ROWS),
            "  one row a transaction": ("single", LOOP_ROWS),
        }
        rows += _table(await compare(source, kinds))
    async with bao_rows(server, bao, BAO_ROWS) as source:
        kinds = {
            "OpenBao, v1 to v2: the worker": ("worker", BAO_ROWS),
            "  one row, one call, one commit": ("single", LOOP_ROWS),
            "  single calls, no database": ("calls", LOOP_ROWS),
        }
        rows += _table(await compare(source, kinds))
    for count in (*SCALE, LARGE) if large else SCALE:
        async with local_rows(server, count) as source:
            measured = await source.measure("worker", count)
        rows += [_row(f"env to env: {count:,} rows", measured, None)]
    return rows


def _table(found: dict[str, Measured]) -> list[dict[str, object]]:
    worker, *_ = found.values()
    return [
        _row(name, one, None if one is worker else worker.rate / one.rate)
        for name, one in found.items()
    ]


def _row(name: str, measured: Measured, ratio: float | None) -> dict[str, object]:
    return {
        "": name,
        **{key: round(value, 2) for key, value in dataclasses.asdict(measured).items()},
        "rows/s": round(measured.rate),
        "worker is": None if ratio is None else round(ratio, 2),
    }


def main() -> None:
    """Print one table, and JSON where it is asked for."""
    parser = argparse.ArgumentParser(prog="make bench-rewrap", description=__doc__)
    parser.add_argument("--large", action="store_true", help="also a million rows; takes minutes")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    chosen = parser.parse_args()
    configure(LogLevel.WARNING, LogFormat.TEXT)
    with tempfile.TemporaryDirectory(prefix="custody-bench-") as folder:
        parent = Path(folder)
        parent.chmod(0o755)  # the server's own user must reach it
        (parent / "bao").mkdir()
        with EmbeddedPostgres(parent / "pg") as server, bao_server(parent / "bao") as bao:
            rows = asyncio.run(run(server, bao, large=chosen.large))
    print_table(rows)
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2), "utf-8")


def print_table(rows: list[dict[str, object]]) -> None:
    """Print the rows; ``cpu`` are seconds of the worker's process, ``peak`` its MiB."""
    columns = ("rows", "seconds", "cpu", "peak", "rows/s")
    head = "".join(f"{column:>10}" for column in columns)
    sys.stdout.write(f"{'':<34}{head}  the worker is\n")
    for row in rows:
        cells = "".join(f"{row[column]!s:>10}" for column in columns)
        ratio = "" if row["worker is"] is None else f"{row['worker is']} times that"
        sys.stdout.write(f"{row['']:<34}{cells}  {ratio}\n")


if __name__ == "__main__":
    main()
