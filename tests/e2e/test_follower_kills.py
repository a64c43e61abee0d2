"""The follower's proof: its target is away for long, it and the daemon are killed, users go on.

The target is away for ten seconds; for the ten minutes that an outage may last, set
CUSTODY_TEST_DOWN_SECONDS=600.
"""

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import aiohttp
import pytest

from tests.audit_targets import DatagramServer, SyslogServer, content_of, numbers
from tests.client import Client, client_session
from tests.db.command import Command
from tests.eventually import eventually
from tests.forked import Forked
from tests.ports import free_port
from tests.proofs import FULL
from tests.servers import Daemon, Database, daemon_beside, wait_for
from tests.tokens import Issuer

DOWN_SECONDS = float(os.environ.get("CUSTODY_TEST_DOWN_SECONDS", "10"))
USERS = [f"user-{number}" for number in range(6)]
ROWS = "SELECT number, user_id FROM auth.encryption_vault_audit ORDER BY number"

pytestmark = [pytest.mark.prove, pytest.mark.timeout(300 + 2 * DOWN_SECONDS)]


class Taken:
    """What a target has, and how it goes away.

    Args:
        uri: of it.
        down, up: let it go away and come back.
        lines: return all lines that it ever took, in their order.
    """

    def __init__(
        self,
        uri: str,
        down: Callable[[], None],
        up: Callable[[], Awaitable[None]],
        lines: Callable[[], list[str]],
    ) -> None:
        self.uri, self.down, self.up, self.lines = uri, down, up, lines


@asynccontextmanager
async def file(folder: Path) -> AsyncIterator[Taken]:
    """A file, whose disk is taken away."""
    there, away = folder / "disk", folder / "away"
    there.mkdir()

    def lines() -> list[str]:
        text = (there / "audit.jsonl").read_text("utf-8")
        # Where the follower was killed, the end may be torn until the next one opens it.
        return text[: text.rfind("\n") + 1].splitlines()

    async def up() -> None:
        away.rename(there)

    def down() -> None:
        there.rename(away)

    yield Taken(f"file:{there}/audit.jsonl", down, up, lines)


@asynccontextmanager
async def tcp(_folder: Path) -> AsyncIterator[Taken]:
    """A syslog server, which dies with what it has not read."""
    server = SyslogServer(free_port())
    await server.start()
    uri = f"syslog://127.0.0.1:{server.port}"
    yield Taken(uri, server.die, server.start, lambda: server.lines)
    server.die()


@asynccontextmanager
async def datagrams(folder: Path) -> AsyncIterator[Taken]:
    """A syslog daemon of the host, as the journal is one; it dies with its queue."""
    server, found = DatagramServer(folder / "log"), list[str]()
    server.start()

    async def keep_taking() -> None:
        while True:
            with suppress(OSError):
                found.extend(map(content_of, server.take()))
            await asyncio.sleep(0.001)

    async def up() -> None:
        server.start()

    taking = asyncio.create_task(keep_taking())
    yield Taken(f"syslog:{server.path}", server.die, up, lambda: found)
    taking.cancel()
    server.die()


class Killed:
    """A process that is started again as soon as it was killed."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start, self.kills = start, 0
        self.process = start()

    async def kill(self) -> None:
        """Kill it, whatever it does, and start it again."""
        self.process.kill()
        await asyncio.to_thread(self.process.wait, 30)
        self.kills += 1
        self.process = await asyncio.to_thread(self._start)


async def use(client: Client, stop: asyncio.Event) -> list[str]:
    """Ask for a key again and again; return what was answered 200, in order."""
    answered = []
    number = 0
    while not stop.is_set():
        number += 1
        agent = f"{client.user} {number}"
        with suppress(aiohttp.ClientError, ConnectionError):
            answer = await client.call("GET", "/key", headers={"User-Agent": agent})
            if answer.status == 200:
                answered.append(agent)
        await asyncio.sleep(0.02)
    return answered


@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=FULL)])
@pytest.mark.parametrize("target", [file, tcp, datagrams], ids=lambda target: target.__name__)
async def test_every_row_and_none_out_of_order(
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
    *,
    target: Any,
    kills: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dice = Random(17)  # noqa: S311 - can be repeated
    login = f"auditor_{secrets.token_hex(4)}"
    await database.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'x' IN ROLE custody_audit")
    place = database.url("custody_owner").partition("@")[2]
    with daemon_beside(
        database,
        issuer,
        tmp_path,
        AUDIT_SEAL_INTERVAL="1",
        LOG_LEVEL="warning",
    ) as daemon:
        async with target(tmp_path) as taken, client_session() as session:
            environ = {
                "CUSTODY_AUDIT_DATABASE_URL": f"postgresql://{login}:x@{place}",
                "CUSTODY_AUDIT_EXPORT": taken.uri,
            }
            words = "audit", "follow", "--state", str(tmp_path / "state")
            follower = Killed(lambda: Command(environ, *words).process)
            serving = Killed(lambda: again(daemon))
            stop = asyncio.Event()
            clients = [Client(daemon, session, user) for user in USERS]
            for client in clients:
                assert (await client.init()).status == 200
            using = [asyncio.create_task(use(client, stop)) for client in clients]
            for _ in range(kills // 2):
                await asyncio.sleep(dice.uniform(0.3, 2.5))
                await asyncio.gather(follower.kill(), serving.kill())
            taken.down()
            went = monotonic()
            for left in reversed(range(kills - kills // 2)):
                await follower.kill()
                await serving.kill()
                await asyncio.sleep(max(0, went + DOWN_SECONDS - monotonic()) / (left + 1))
            await taken.up()
            came = monotonic()
            answered = [agent for one in using for agent in await stopped(one, stop)]
            rows = [(row["number"], row["user_id"]) for row in await database.fetch(ROWS)]
            await eventually(lambda: rows[-1][0] in numbers(taken.lines()[-50:]), 120)
            caught_up = monotonic() - came
            lines = list(taken.lines())
            # Nothing torn is left, and it stays so.
            follower.process.terminate()
            assert await asyncio.to_thread(follower.process.wait, 30) == 0
            serving.process.kill()
    found = [json.loads(line) for line in lines]
    first: dict[int, dict[str, Any]] = {}
    for one in found:
        if "number" in one:
            first.setdefault(one["number"], one)
    # Every row, in the order of all, so in that of each user.
    assert list(first) == [number for number, _ in rows]
    agents = [one["userAgent"] for one in first.values() if one["action"] == "fetch"]
    assert set(answered) <= set(agents)
    for user in USERS:
        order = [int(agent.split()[1]) for agent in agents if agent.split()[0] == user]
        assert order == sorted(set(order))
    assert (follower.kills, serving.kills) == (kills, kills)
    repeated = sum("number" in one for one in found) - len(first)
    with capsys.disabled():
        figures = (
            f"{len(rows)} rows, {repeated} came again; follower and daemon killed {kills} times "
            f"each; target away {DOWN_SECONDS:.0f} s; caught up in {caught_up:.1f} s"
        )
        print(f"\n{target.__name__}: {figures}")  # noqa: T201


async def stopped(task: "asyncio.Task[list[str]]", stop: asyncio.Event) -> list[str]:
    stop.set()
    return await task


def again(daemon: Daemon) -> Forked:
    """Start the daemon anew, where clients look for it."""
    assert daemon.log is not None
    daemon.running.kill()
    daemon.running.wait(30)
    environ = {"PATH": os.environ["PATH"], **daemon.settings}
    process = Forked("custody", "serve", environ=environ, out=daemon.log, err=daemon.log)
    wait_for(f"{daemon.admin}/readyz", process, daemon.log)
    return process
