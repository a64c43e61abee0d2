"""``make bench``: the routes beside their ceiling, a bare aiohttp handler, in one run.

PostgreSQL has its default durability. Figures are medians of three runs in turn; compare ratios
within a run, not numbers between machines.
"""

import argparse
import asyncio
import dataclasses
import json
import multiprocessing
import statistics
import sys
import tempfile
from pathlib import Path

from aiohttp import web

from custody.db.embedded import EmbeddedPostgres
from tests.bench.load import Load, run
from tests.servers import Database, daemon_beside, free_port, make_template, new_database
from tests.tokens import Issuer

USERS = 1000
CONNECTIONS = (1, 16, 64)
ROUNDS = 3


def serve_bare(port: int) -> None:
    """Serve the ceiling: one aiohttp handler that answers a constant of the same size."""
    body = json.dumps({"masterKey": "A" * 43 + "=", "formatVersion": 2, "kekId": "env-v1"}).encode()

    async def handle(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/key", handle)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


def build(method: str, path: str, token: str) -> bytes:
    """Return a whole request."""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 0\r\n\r\n"
    ).encode()


async def measure(parent: Path, seconds: float) -> list[dict[str, object]]:
    """Run everything and return one row per route and number of connections."""
    issuer = Issuer()
    with EmbeddedPostgres(parent / "pg") as server:
        await make_template(server)
        await asyncio.to_thread(server.grant_logins)
        async with new_database(server) as database:
            return await _measure_on(database, issuer, parent, seconds)


async def _measure_on(
    database: Database, issuer: Issuer, folder: Path, seconds: float
) -> list[dict[str, object]]:
    tokens = [issuer.token(f"user-{number}") for number in range(USERS)]
    bare_port = free_port()
    bare = multiprocessing.Process(target=serve_bare, args=(bare_port,), daemon=True)
    bare.start()
    with daemon_beside(database, issuer, folder, LOG_LEVEL="warning") as daemon:
        port = int(daemon.base.split(":")[2].split("/")[0])
        path = "/" + daemon.base.split("/", 3)[3]
        await run(port, [build("POST", f"{path}/init", token) for token in tokens], 16, 5)
        targets = {
            "bare aiohttp": (bare_port, [build("GET", "/key", tokens[0])]),
            "GET /status": (port, [build("GET", f"{path}/status", token) for token in tokens]),
            "GET /key": (port, [build("GET", f"{path}/key", token) for token in tokens]),
            "POST /init": (port, [build("POST", f"{path}/init", token) for token in tokens]),
        }
        results: dict[tuple[str, int], list[Load]] = {}
        for _ in range(ROUNDS):
            for name, (target, requests) in targets.items():
                for connections in CONNECTIONS:
                    load = await run(target, requests, connections, seconds)
                    results.setdefault((name, connections), []).append(load)
    bare.terminate()
    bare.join()
    return [_row(name, connections, loads) for (name, connections), loads in results.items()]


def _row(name: str, connections: int, loads: list[Load]) -> dict[str, object]:
    middle = sorted(loads, key=lambda load: load.rate)[len(loads) // 2]
    return {
        "route": name,
        "connections": connections,
        "rate": round(statistics.median(load.rate for load in loads)),
        **{key: round(value, 2) for key, value in dataclasses.asdict(middle).items()},
    }


def main() -> None:
    """Print one table, and JSON where it is asked for."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each single measurement")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="custody-bench-") as name:
        parent = Path(name)
        parent.chmod(0o755)  # the server's own user must reach it
        rows = asyncio.run(measure(parent, chosen.seconds))
    columns = ("route", "connections", "rate", "p50", "p99", "errors")
    sys.stdout.write("".join(f"{column:>14}" for column in columns) + "\n")
    for row in rows:
        sys.stdout.write("".join(f"{row[column]!s:>14}" for column in columns) + "\n")
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2), "utf-8")


if __name__ == "__main__":
    main()
