"""``make chaos-callers`` comes to a verdict, and it is no good one where a daemon gives in."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.bench.chaos import honest, measure, watch
from tests.bench.chaos.attacks import ATTACKS
from tests.bench.chaos.measure import Target
from tests.bench.chaos.scene import attacking
from tests.bench.chaos.verdict import Row, failures
from tests.bench.load import Request
from tests.eventually import eventually
from tests.ports import stop_listening
from tests.servers import ROOT

SECONDS = 110
ASK = Request(b"GET /key HTTP/1.1\r\nHost: test\r\n\r\n", b"{}")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

pytestmark = [pytest.mark.timeout(SECONDS + 10), pytest.mark.prove]


@asynccontextmanager
async def stub(most: int) -> AsyncIterator[Target]:
    """Answer everybody, until there are more connections at once than these: then nobody."""
    writers: set[asyncio.StreamWriter] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            writers.discard(writer)
            writer.transport.abort()

    async def give_in() -> None:
        await stop_listening(server)
        for one in writers:
            one.transport.abort()

    # Not the task itself: one that is cancelled before its first step would leave its connection.
    def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        answers.create_task(answer(reader, writer))
        # Those that were accepted before it gave in, and come here after, have no answer either.
        if len(writers) > most:
            answers.create_task(give_in())

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server, asyncio.TaskGroup() as answers:
        port = server.sockets[0].getsockname()[1]
        yield Target(os.getpid(), port, port, [ASK], ["token"], ["token"])
        await give_in()
        await eventually(lambda: not writers)


async def attacked(target: Target, monkeypatch: pytest.MonkeyPatch) -> Row:
    """Measure an attack that holds a thousand connections, in a hurry."""
    for module in (honest, watch):
        name = "PATIENCE_SECONDS" if module is honest else "_PATIENCE_SECONDS"
        monkeypatch.setattr(module, name, 0.5)
    monkeypatch.setattr(measure, "_WARM_UP_SECONDS", 0.1)
    monkeypatch.setattr(measure, "_CALM_SECONDS", 0.2)
    monkeypatch.setattr(measure, "BACK_SECONDS", 1.0)
    (attack,) = [one for one in ATTACKS if one.name == "half-open"]
    return await measure.measure(attack, target, attacking, before=0.5, seconds=1.0)


async def test_honest_users_of_a_server_that_holds_see_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stub(most=2000) as target:
        row = await attacked(target, monkeypatch)
    assert row.before.requests > 0
    assert row.meanwhile.requests > 0
    assert not row.meanwhile.errors
    assert set(row.worst) == {"livez", "readyz"}
    assert not row.probe_errors
    assert row.sent["connections"] > 10
    assert row.open_most.connections > row.open_before.connections > 0


async def test_a_server_that_gives_in_is_shown_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stub(most=50) as target:
        row = await attacked(target, monkeypatch)
    assert not row.before.errors
    assert row.meanwhile.errors
    assert "honest users saw errors" in failures(row)
    assert any(failure.startswith("/livez failed") for failure in failures(row))
    assert row.back is None


def test_the_command_prints_its_table_and_its_exit_code_is_the_verdict(tmp_path: Path) -> None:
    path = tmp_path / "chaos.json"
    options = ("--seconds", "2", "--before", "1", "--only", "half-open", "handshakes")
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.chaos", "--json", str(path), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert "eyJ" not in done.stdout + done.stderr, "a token was printed"
    assert path.exists(), done.stderr
    rows = json.loads(path.read_text("utf-8"))["rows"]
    assert [row["attack"] for row in rows] == ["half-open", "stalled handshakes"], done.stderr
    assert done.returncode == int(any(row["failures"] for row in rows))
    for row in rows:
        assert row["before"]["requests"] > 0
        assert not row["before"]["errors"]
        assert row["sent"]["connections"] > 100
        assert f"\n{row['attack']} " in done.stdout
