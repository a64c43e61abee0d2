"""``make bench-kek-faults``: what users of a healthy KEK notice while another one fails.

Both kinds of users ask for their keys at a fixed pace; the healthy ones' times are compared with
those of the same daemon, at the same pace, before the fault.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from custody.development.postgres import EmbeddedPostgres
from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from tests.bao_server import Bao, bao_server
from tests.client import Client
from tests.e2e.kek_faults import (
    AWS_FAULTS,
    OPENBAO_FAULTS,
    Case,
    sick_aws_kms,
    sick_openbao,
    two_kinds_of_users,
)
from tests.e2e.keks import Place
from tests.servers import Database, make_template, new_database
from tests.tokens import Issuer

PAUSE_SECONDS = 0.05


async def paced(client: Client, seconds: float) -> list[float]:
    """Read a key twenty times a second, and return how long each answer took, in milliseconds."""
    times = []
    until = time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        await client.key()
        took = time.monotonic() - began
        times.append(1000 * took)
        await asyncio.sleep(max(0.0, PAUSE_SECONDS - took))
    return times


async def phase(victims: list[Client], healthy: list[Client], seconds: float) -> list[float]:
    """Let both kinds read, and return the healthy ones' times in order."""
    background = [asyncio.create_task(paced(victim, seconds)) for victim in victims]
    times = await asyncio.gather(*(paced(client, seconds) for client in healthy))
    await asyncio.gather(*background)
    return sorted(one for some in times for one in some)


async def measure_one(
    case: Case, place: Place, database: Database, folder: Path, seconds: float
) -> dict[str, float]:
    """Measure before and during a fault."""
    users = two_kinds_of_users(database, Issuer(), folder, place, LOG_LEVEL="warning")
    async with users as (_daemon, victims, healthy):
        await phase(victims, healthy, 1.0)
        before = await phase(victims, healthy, seconds)
        await asyncio.to_thread(case.begin)
        during = await phase(victims, healthy, seconds)
        await asyncio.to_thread(case.cure)
    row = {}
    for when, times in (("before", before), ("during", during)):
        row[f"p50 {when}"] = times[len(times) // 2]
        row[f"p99 {when}"] = times[len(times) * 99 // 100]
    return {**row, "p99 ratio": row["p99 during"] / row["p99 before"]}


async def measure(
    server: EmbeddedPostgres, bao: Bao, folder: Path, chosen: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Measure all faults in turn, each on a database of its own."""
    await make_template(server)
    await asyncio.to_thread(server.grant_logins)
    rows = {}
    for kind, names in (("openbao", OPENBAO_FAULTS), ("aws-kms", AWS_FAULTS)):
        for name in names:
            if chosen.only not in f"{kind}: {name}":
                continue
            prepared = sick_openbao(name, bao, folder) if kind == "openbao" else sick_aws_kms(name)
            async with new_database(server) as database:
                with prepared as (case, place):
                    row = await measure_one(case, place, database, folder, chosen.seconds)
            rows[f"{kind}: {name}"] = row
    return rows


def main() -> None:
    """Print one table, and JSON where it is asked for."""
    parser = argparse.ArgumentParser(prog="make bench-kek-faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each phase")
    parser.add_argument("--only", default="", help="faults whose name holds this text")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    chosen = parser.parse_args()
    configure(LogLevel.WARNING, LogFormat.TEXT)
    with tempfile.TemporaryDirectory(prefix="custody-bench-") as folder:
        parent = Path(folder)
        parent.chmod(0o755)  # the server's own user must reach it
        (parent / "bao").mkdir()
        with EmbeddedPostgres(parent / "pg") as server, bao_server(parent / "bao") as bao:
            rows = asyncio.run(measure(server, bao, parent, chosen))
    columns = next(iter(rows.values()))
    sys.stdout.write(f"{'':<32}" + "".join(f"{column:>12}" for column in columns) + "\n")
    for name, row in rows.items():
        cells = "".join(f"{row[column]:>12.2f}" for column in columns)
        sys.stdout.write(f"{name:<32}{cells}\n")
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2), "utf-8")


if __name__ == "__main__":
    main()
