"""Under load, with the socket of systemd: what is lost when the daemon is killed, hangs, restarts.

A process that is killed takes with it the connections that it had accepted. Whoever waits at the
socket, or comes while nobody answers, is served by the next one.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from tests.client import Client, client_session
from tests.eventually import soon
from tests.load import Load, Request, load
from tests.systemd.host import Host

pytestmark = [pytest.mark.timeout(600), pytest.mark.prove]

TIMES = 3
# More of them: what a stop can lose, it loses now and then.
RESTARTS = 8
CLIENTS = 16

Report = Callable[..., None]
# When each fault began, and when its effect was there.
Moments = list[tuple[float, float]]


@pytest.fixture
async def busy(debian: Host) -> AsyncIterator[Load]:
    """A load on a daemon that runs, in one process."""
    # The load is of one user.
    unlimited = "Environment=CUSTODY_RATE_LIMIT=0"
    debian.drop_in("custody.service", "[Service]", "WatchdogSec=5", unlimited)
    debian.start()
    async with client_session() as session:
        assert (await Client(debian.daemon, session, "alice").init()).status == 200
    async with load(debian.daemon, ["alice"] * CLIENTS) as seen:
        await asyncio.sleep(1)
        yield seen
    # What began last had its answer, too.
    assert seen.requests


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    def show(fault: str, seen: Load, moments: Moments) -> None:
        slowest = max(one.ended - one.begun for one in seen.requests)
        with capsys.disabled():
            print(  # noqa: T201
                f"\n{fault}, {len(moments)} times: {len(seen.requests)} requests; lost: "
                f"{len(seen.lost())}, of those not yet accepted: "
                f"{len(not_accepted(seen, moments))}; the slowest took {slowest:.1f} s"
            )

    return show


def not_accepted(seen: Load, moments: Moments) -> list[Request]:
    """Return the lost requests that no process which a fault hit can have accepted."""
    return [
        one
        for one in seen.lost()
        if not any(one.begun < gone and one.ended > told for told, gone in moments)
    ]


async def again(host: Host, before: int) -> None:
    """Wait until another process serves, and let it serve for a moment.

    In a thread, like all that takes a while: clients that stand still would have no request under
    way when the next fault comes.
    """
    await asyncio.to_thread(
        soon,
        lambda: host.property("ActiveState") == "active" and host.main_process() not in {0, before},
    )
    await asyncio.sleep(1)


def is_gone(process: int) -> bool:
    return not Path(f"/proc/{process}").exists()


def is_stopped(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].startswith("T")


@pytest.mark.parametrize(
    ("number", "there"), [(signal.SIGKILL, is_gone), (signal.SIGSTOP, is_stopped)]
)
async def test_a_process_that_dies_or_hangs_loses_only_what_it_had_accepted(
    number: signal.Signals, there: Callable[[int], bool], debian: Host, busy: Load, report: Report
) -> None:
    moments = []
    for _ in range(TIMES):
        process = await asyncio.to_thread(debian.main_process)
        await asyncio.sleep(0.5)
        told = time.monotonic()
        os.kill(process, number)
        await asyncio.to_thread(soon, partial(there, process), pause=0.001)
        moments.append((told, time.monotonic()))
        await again(debian, process)
    report(number.name, busy, moments)
    assert sum(one.begun >= moments[-1][1] for one in busy.requests) > CLIENTS
    assert not_accepted(busy, moments) == []
    # Each client had one request under way at most, and each fault hit some of them.
    assert TIMES <= len(busy.lost()) <= TIMES * CLIENTS
    assert debian.property("NRestarts") == str(TIMES)
    if number is signal.SIGSTOP:
        assert debian.journal("custody").count("Watchdog timeout (limit 5s)!") == TIMES
    # Never one that asks for a core.
    assert debian.journal("custody").count("code=killed, status=9/KILL") == TIMES


async def test_restarts_lose_nothing(debian: Host, busy: Load, report: Report) -> None:
    moments = []
    for _ in range(RESTARTS):
        process = await asyncio.to_thread(debian.main_process)
        await asyncio.sleep(0.5)
        told = time.monotonic()
        done = await asyncio.to_thread(debian.systemctl, "restart", "custody")
        assert done.returncode == 0
        moments.append((told, time.monotonic()))
        await again(debian, process)
    report("systemctl restart", busy, moments)
    assert busy.lost() == []
    assert debian.property("NRestarts") == "0"


async def test_a_stop_and_a_start_lose_nothing_while_the_socket_is_open(
    debian: Host, busy: Load, report: Report
) -> None:
    process = await asyncio.to_thread(debian.main_process)
    await asyncio.sleep(0.5)
    told = time.monotonic()
    done = await asyncio.to_thread(debian.systemctl, "stop", "custody")
    assert done.returncode == 0
    moments = [(told, time.monotonic())]
    # Nobody starts it but the connections that wait.
    await again(debian, process)
    report("systemctl stop", busy, moments)
    assert busy.lost() == []


def test_more_failures_than_systemd_allows_by_default_do_not_end_it(debian: Host) -> None:
    debian.drop_in("custody.service", "[Service]", "RestartSec=100ms")
    debian.start()
    seen: list[int] = []
    for _ in range(7):
        soon(lambda: debian.main_process() not in {0, *seen})
        seen.append(debian.main_process())
        # While it starts: more than five starts in ten seconds.
        os.kill(seen[-1], signal.SIGKILL)
    soon(lambda: debian.show("ActiveState", "NRestarts") == ["active", "7"])
    assert debian.property("ActiveState", "custody.socket") == "active"
