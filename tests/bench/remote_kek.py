"""``make bench-remote-kek``: what is left of an OpenBao's own speed on the way to a user.

Single decrypt calls straight at the server, with a token of the same least policy: that is what it
can do at most. Beside it the backend alone, as many unwraps at once, with neither HTTP server nor
database; and GET /key through the daemon. In turn, so each ratio is of one round.
"""

import argparse
import asyncio
import base64
import json
import sys
from pathlib import Path

from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from kek_backends.base import FORMAT_CURRENT, Wrap
from kek_backends.binding import Binding
from tests.bao_server import Bao, bao_server
from tests.bench.bao_wraps import context, encrypt
from tests.bench.load import Request
from tests.bench.rounds import Row, Run, Target, measure
from tests.bench.stage import Stage, pid_of, port_of, stage
from tests.bench.table import report
from tests.bench.unwrapper import unwrapper
from tests.bench.users import PATH, Users, master_key, requests_of, tokens_for
from tests.bindings import of
from tests.keks import kek_of
from tests.many_rows import copy_rows
from tests.servers import new_database

SERVER, BACKEND, KEY = "OpenBao: decrypt", "backend: unwrap", "GET /key"
_AT_MOST = {"openbao": SERVER}


class Kek:
    """A derived key of an OpenBao, and what it wrapped.

    Args:
        bao: the server.
        users: whose master keys.
    """

    def __init__(self, bao: Bao, users: Users) -> None:
        self.users = users
        self.name = bao.make_key()
        self.uri = f"vault:transit/{self.name}"
        self.environ = bao.environ(self.name)
        self.wraps = {
            user: Wrap(text, "", FORMAT_CURRENT, f"{self.uri}:v1")
            for user, text in encrypt(bao, self.name, users).items()
        }

    async def ready(self, binding: Binding, _key: bytes) -> Wrap:
        """Return the wrap that is there."""
        return self.wraps[binding.subject]

    def decrypts(self) -> list[Request]:
        """Return a request to OpenBao for each user's master key."""
        token = self.environ["VAULT_TOKEN"]
        found = []
        for user, wrap in self.wraps.items():
            body = json.dumps({"ciphertext": wrap.wrapped_mk, "context": context(of(user))})
            lines = [
                f"POST /v1/transit/decrypt/{self.name} HTTP/1.1",
                "Host: openbao",
                f"X-Vault-Token: {token}",
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
            ]
            text = "\r\n".join([*lines, "", body])
            found.append(Request(text.encode(), base64.b64encode(master_key(user))))
        return found


async def bench(on: Stage, bao: Bao, chosen: argparse.Namespace) -> list[Row]:
    """Measure all three in turn."""
    kek = await asyncio.to_thread(Kek, bao, Users(chosen.users))
    assert bao.process is not None
    bao_pid = bao.process.pid
    tokens = tokens_for(on.issuer, list(kek.wraps))
    keys = requests_of(tokens, "GET", f"{PATH}/key", key=True)
    settings = {"KEK": kek.uri} | {f"raw_{name}": value for name, value in kek.environ.items()}
    async with new_database(on.server) as database:
        async with kek_of(kek.uri, kek.environ) as backend:
            await copy_rows(database, backend, kek.users, kek.ready)
        with (
            unwrapper(kek.uri, kek.environ, kek.wraps) as alone,
            on.daemon(database, **settings) as daemon,
        ):

            def sent_to(port: int, requests: list[Request]) -> Run:
                return lambda count, seconds: on.generator.run(port, requests, count, seconds)

            targets = [
                Target(SERVER, sent_to(bao.port, kek.decrypts())),
                Target(BACKEND, alone.run, alone.pid, _AT_MOST),
                Target(KEY, sent_to(port_of(daemon), keys), pid_of(daemon), _AT_MOST),
            ]
            return await asyncio.to_thread(
                measure,
                targets,
                chosen.connections,
                rounds=chosen.rounds,
                seconds=chosen.seconds,
                beside={"bao": bao_pid, "pg": on.server_pid},
            )


async def run(chosen: argparse.Namespace) -> None:
    """Measure, and print."""
    async with stage() as on:
        about = await on.describe() | {"users": chosen.users}
        folder = on.folder / "bao"
        await asyncio.to_thread(folder.mkdir)
        with bao_server(folder) as bao:
            about["openbao"] = bao.ask("GET", "sys/health")["version"]
            rows = await bench(on, bao, chosen)
    report(rows, about | {"rounds": chosen.rounds, "seconds": chosen.seconds}, chosen.json)
    if any(row.errors for row in rows):
        raise SystemExit("not everything was answered as it should be: no figure counts")


def main() -> None:
    """Run it."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make bench-remote-kek", description=text)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each single measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
