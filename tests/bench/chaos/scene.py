"""Who plays in an attack: the daemon, the issuer, and the attackers' process."""

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.bench.chaos.attacker import BEGUN
from tests.bench.chaos.measure import Target
from tests.bench.chaos.swarm import Attack, Plan
from tests.bench.stage import Stage
from tests.bench.users import PATH, Users, requests_of, tokens_for
from tests.certificates import make_certificate
from tests.http_servers import Asked, HttpServer
from tests.ports import free_port
from tests.servers import ROOT, Database, log_file, settings_for, started, wait_for
from tests.tokens import Issuer

HONEST, ATTACKERS, UNKNOWN = 200, 20, 500
USERS = Users(HONEST + ATTACKERS)
# What an attack may take beyond its time.
_GRACE_SECONDS = 20.0
_STOP_SECONDS = 40.0
_WITH_FILES = 'ulimit -n "$1" && shift && exec "$@"'


class JwksServer(HttpServer):
    """Gives the issuer's keys, or hangs.

    Args:
        issuer: whose.

    Attributes:
        hangs: whether it leaves those who ask without an answer.
    """

    def __init__(self, issuer: Issuer) -> None:
        super().__init__(self._give)
        self._jwks = issuer.jwks()
        self.hangs = False

    def _give(self, asked: Asked) -> None:
        while self.hangs and not self.closing.wait(0.05):
            continue
        asked.say(self._jwks)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A daemon that is attacked.

    Args:
        target: how it is reached, and what it is sent.
        process: of the daemon.
        log: of the daemon.
    """

    target: Target
    process: "subprocess.Popen[bytes]"
    log: Path

    def logged(self) -> dict[str, int]:
        """Return how many warnings and errors it has logged, by event."""
        events = (json.loads(line) for line in self.log.open("rb") if line.startswith(b"{"))
        found = (one["event"] for one in events if one["level"] in {"warning", "error"})
        return dict(Counter(found))


@contextmanager
def scene(on: Stage, database: Database, jwks: JwksServer, attack: Attack) -> Iterator[Scene]:
    """Run the daemon as it is in production, with as many descriptors as an attack leaves it."""
    port, admin = free_port(), free_port()
    settings = {
        "LISTEN": f"127.0.0.1:{port}",
        "ADMIN_LISTEN": f"127.0.0.1:{admin}",
        "JWKS_FILE": "",
        "JWKS_URL": jwks.url,
        "LOG_LEVEL": "info",
        # Of tests; here they are what they are by default.
        "USER_CONCURRENCY": "",
        "RATE_LIMIT": "",
    }
    context = None
    if attack.tls:
        cert, key = make_certificate(on.folder / "tls")
        settings |= {"TLS_CERT": str(cert), "TLS_KEY": str(key)}
        context = ssl.create_default_context(cafile=str(cert))
    environ = settings_for(database, on.issuer, on.folder, **settings)
    log = log_file("attacked")
    command = ("sh", "-c", _WITH_FILES, "sh", str(attack.files))
    serve = (sys.executable, "-m", "custody", "serve")
    with started(*command, *serve, environ=environ, out=log, err=log) as process:
        try:
            wait_for(f"http://127.0.0.1:{admin}/readyz", process, log)
            yield Scene(_target(on.issuer, process.pid, port, admin, context), process, log)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            process.kill()


def _target(
    issuer: Issuer, pid: int, port: int, admin: int, context: ssl.SSLContext | None
) -> Target:
    ids = [user for user, _ in USERS]
    honest = requests_of(tokens_for(issuer, ids[:HONEST]), "GET", f"{PATH}/key", key=True)
    attackers = [*tokens_for(issuer, ids[HONEST:]).values()]
    return Target(pid, port, admin, honest, attackers, unknown_tokens(issuer), context)


def unknown_tokens(issuer: Issuer) -> list[str]:
    """Make tokens that name keys which no issuer has."""
    sign = Ed25519PrivateKey.generate().sign
    headers = [issuer.header(kid=f"unknown-{secrets.token_hex(8)}") for _ in range(UNKNOWN)]
    return [issuer.signed(header, issuer.claims(), sign) for header in headers]


@asynccontextmanager
async def attacking(plan: Plan) -> AsyncIterator["asyncio.Task[Mapping[str, int]]"]:
    """Attack from a process of its own, which ends with the block at the latest.

    Yields:
        Once it has begun, a task: it is done when the attack is over and its connections are
        closed, and says what was sent and what came back.

    Raises:
        RuntimeError: the process died, here or in the task.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.chaos.attacker"),
        env={"PATH": os.environ["PATH"]},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # Tokens go where no command line shows them.
        process.stdin.write(json.dumps(dataclasses.asdict(plan)).encode())
        process.stdin.close()
        if await process.stdout.readline() != BEGUN:
            raise RuntimeError("the attackers did not begin")
        yield asyncio.create_task(_tally(process, process.stdout, plan.seconds))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _tally(
    process: asyncio.subprocess.Process, output: asyncio.StreamReader, seconds: float
) -> Mapping[str, int]:
    async with asyncio.timeout(seconds + _GRACE_SECONDS):
        said = await output.read()
        if await process.wait():
            raise RuntimeError("the attackers died")
    tally: dict[str, int] = json.loads(said)
    return tally
