"""``make bench-envelope``: GET /key in envelope mode beside a KEK in memory, all in turn.

Three daemons on three databases of one server: ``env:`` in direct mode, which is the ceiling; a
transit key of a real OpenBao, and a key of a KMS that speaks AWS' protocol (a stub), both in
envelope mode. Beside the rates: how often the KMS was asked while nothing but logins went on.
"""

import argparse
import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from custody.datakeys.envelope import Envelope
from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from kek_backends.uri import KekUri
from tests.bao_server import bao_server
from tests.bench import ceilings
from tests.bench.load import Request
from tests.bench.rounds import Row, Run, Target, measure
from tests.bench.stage import Stage, pid_of, port_of, stage
from tests.bench.table import report
from tests.bench.users import PATH, Users, requests_of, tokens_for
from tests.datakeys import FixedRing
from tests.kek.kms_stub import KmsStub, kms_stub
from tests.keks import kek_of
from tests.many_rows import copy_rows
from tests.sealed_rows import data_key_of
from tests.servers import Daemon, new_database

BARE, ENV = "bare handler", "env: direct"


@dataclass(frozen=True)
class Place:
    """A KEK in envelope mode.

    Args:
        name: for the table.
        uri: of the KEK, with the mode.
        environ: the variables that its backend reads.
    """

    name: str
    uri: str
    environ: Mapping[str, str]


@contextlib.asynccontextmanager
async def enveloped(on: Stage, users: Users, place: Place) -> AsyncIterator[Daemon]:
    """Run a daemon in envelope mode on a database with these users for the length of the block."""
    uri = KekUri.parse(place.uri)
    settings = {"KEK": place.uri} | {f"raw_{name}": value for name, value in place.environ.items()}
    async with new_database(on.server) as database:
        async with kek_of(uri.key_text, place.environ) as kek:
            await data_key_of(database, kek)
        await copy_rows(database, Envelope(FixedRing.of(), uri), users)
        await database.execute("CHECKPOINT")
        with on.daemon(database, **settings) as daemon:
            yield daemon


async def bench(
    on: Stage, stub: KmsStub, places: list[Place], chosen: argparse.Namespace
) -> list[Row]:
    """Measure all in turn."""
    users = Users(chosen.users)
    tokens = tokens_for(on.issuer, [user for user, _ in users])
    keys = requests_of(tokens, "GET", f"{PATH}/key", key=True)
    bare = requests_of(tokens, "GET", ceilings.BARE)
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(on.users(users))
        daemons = {ENV: stack.enter_context(on.daemon(database))}
        for place in places:
            daemons[place.name] = await stack.enter_async_context(enveloped(on, users, place))
        jwks = Path(daemons[ENV].settings["CUSTODY_JWKS_FILE"])
        served = stack.enter_context(ceilings.ceilings(on.issuer, jwks))

        def sent_to(port: int, requests: list[Request]) -> Run:
            return lambda count, seconds: on.generator.run(port, requests, count, seconds)

        targets = [Target(BARE, sent_to(served.port, bare), served.pid)]
        for name, daemon in daemons.items():
            compared = {"bare": BARE} | ({} if name == ENV else {"env": ENV})
            load = sent_to(port_of(daemon), keys)
            targets.append(Target(name, load, pid_of(daemon), compared))
        before = len(stub.requests)
        rows = await asyncio.to_thread(
            measure,
            targets,
            chosen.connections,
            rounds=chosen.rounds,
            seconds=chosen.seconds,
            beside={"pg": on.server_pid},
        )
        asked = Counter(operation for operation, _ in stub.requests[before:])
        sys.stdout.write(f"calls of the KMS meanwhile: {dict(asked) or 'none'}\n")
        return rows


async def run(chosen: argparse.Namespace) -> None:
    """Measure, and print."""
    async with stage() as on:
        about = await on.describe() | {"users": chosen.users}
        folder = on.folder / "bao"
        await asyncio.to_thread(folder.mkdir)
        with bao_server(folder) as bao, kms_stub() as stub:
            stub.make_key("alias/custody")
            name = bao.make_key()
            environ = bao.environ(name)
            places = [
                Place("OpenBao, envelope", f"vault:transit/{name}?mode=envelope", environ),
                Place("KMS stub, envelope", "aws-kms:alias/custody?mode=envelope", stub.environ),
            ]
            rows = await bench(on, stub, places, chosen)
    report(rows, about | {"rounds": chosen.rounds, "seconds": chosen.seconds}, chosen.json)
    if any(row.errors for row in rows):
        raise SystemExit("not everything was answered as it should be: no figure counts")


def main() -> None:
    """Run it."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make bench-envelope", description=text)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each single measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
