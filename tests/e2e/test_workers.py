"""Several processes on one listener: they come and go, and nobody outside notices."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from custody import supervisor
from custody.ops.notify import Notifier
from custody.sockets.listeners import Listeners
from tests.client import Client, client_session, readiness
from tests.db.command import custody
from tests.db.embedded_server import alive
from tests.e2e.hangup import configured
from tests.e2e.held import held, one_waits
from tests.e2e.keks import Place, make_vaults
from tests.e2e.service_manager import service_manager
from tests.eventually import eventually, soon
from tests.faulty_proxy import Fault, faulty_proxy
from tests.http import wire
from tests.http.wire import status_of
from tests.leaks import remember
from tests.load import load
from tests.servers import (
    Daemon,
    Database,
    daemon_beside,
    settings_for,
)
from tests.tokens import Issuer

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads Linux's /proc")

COUNT = 3
OTHER_KEK = "RnJvbSBhbm90aGVyIGtleSBvZiAzMiBieXRlcyBoZXI="


def workers_of(daemon: Daemon) -> dict[int, int]:
    """Return the process ids of the processes that serve, by their numbers."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(") ")[2].split()[1])
            number = re.search(r"\0--number=(\d+)\0", (folder / "cmdline").read_text())
            if number and parent == daemon.running.pid:
                found[int(number[1])] = int(folder.name)
    return dict(sorted(found.items()))


def metrics_folders(folder: Path) -> list[Path]:
    return list(folder.glob("custody-metrics-*"))


def variables_of(process: int) -> set[str]:
    """Return the names of a process's variables; root alone may ask for them."""
    text = Path("/proc", str(process), "environ").read_text()
    return {line.partition("=")[0] for line in text.split("\0")}


async def serving(daemon: Daemon, count: int) -> None:
    """Wait until so many processes have come to serve, those that are gone included."""
    await eventually(lambda: len(daemon.events("serving")) >= count, 60)


@contextmanager
def three(
    database: Database, issuer: Issuer, folder: Path, module: str = "custody", **overrides: str
) -> Iterator[Daemon]:
    """Run the daemon with three processes, once all of them serve."""
    overrides = {"WORKERS": str(COUNT), "raw_RUNTIME_DIRECTORY": str(folder)} | overrides
    with daemon_beside(database, issuer, folder, module=module, **overrides) as daemon:
        soon(lambda: len(daemon.events("serving")) >= COUNT, 40)
        yield daemon


@contextmanager
def alone(workers: Mapping[int, int], number: int | None) -> Iterator[None]:
    """Stop all processes but one where they stand for the length of the block."""
    others = [process for other, process in workers.items() if other != number]
    for process in others:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


@pytest.mark.prove
async def test_two_of_them_are_one_service(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """The small form of what follows: they serve, reload, are replaced, and end."""
    with service_manager() as manager:
        overrides = {
            "WORKERS": "2",
            "raw_RUNTIME_DIRECTORY": str(tmp_path),
            "raw_NOTIFY_SOCKET": manager.address,
        }
        values: dict[str, Any] = {"cors_origins": []}
        with configured(database, issuer, tmp_path, values, **overrides) as at:
            await eventually(lambda: manager.status.startswith("2 of 2 processes | http:"), 40)
            workers = workers_of(at.daemon)
            assert list(workers) == [0, 1]
            # Each answers while the others stand still, and its metrics are those of all of them.
            for number in workers:
                with alone(workers, number):
                    assert await status_of(at.daemon) == 200
                    assert await answered(at.daemon) == number + 1
            assert len(manager.said("READY")) == 1
            await at.reloads(cors_origins=["https://app.example"])
            await eventually(lambda: len(manager.said("READY")) == 2)
            assert len(manager.said("RELOADING")) == 1
            assert len(at.daemon.events("reloaded")) == len(workers)
            await is_replaced(at.daemon, 1)
            workers = workers_of(at.daemon)
            at.daemon.running.send_signal(signal.SIGTERM)
            assert await at.daemon.ended(40) == 0
            assert not any(alive(worker) for worker in workers.values())
        assert len(manager.said("STOPPING")) == 1
        assert {message.sender for message in manager.messages} == {at.daemon.running.pid}
    assert metrics_folders(tmp_path) == []


async def is_replaced(daemon: Daemon, number: int) -> None:
    """One that is killed; while it is missing the others serve."""
    before, came = workers_of(daemon), len(daemon.events("serving"))
    os.kill(before[number], signal.SIGKILL)
    await eventually(lambda: not alive(before[number]))
    async with load(daemon, ["alice"] * 4, "/status") as seen:
        await serving(daemon, came + 1)
    assert (seen.answered > 0, seen.lost()) == (True, [])
    after = workers_of(daemon)
    assert after.keys() == before.keys()
    assert {n for n in after if after[n] != before[n]} == {number}


async def test_what_gives_no_sign_of_life_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The small form of the frozen one that is replaced."""
    monkeypatch.setattr(supervisor, "_LOOK_SECONDS", 0.05)
    keeper = supervisor.Supervisor(1, {}, Listeners((), ()), Notifier())
    process = await asyncio.create_subprocess_exec("sleep", "60")
    loop = asyncio.get_running_loop()
    worker = supervisor._Daemon(process, alive_until=loop.time() + 60)
    try:
        end = asyncio.create_task(keeper._end_of(worker))
        done, _ = await asyncio.wait({end}, timeout=0.3)
        assert not done
        worker.alive_until = loop.time() - 1
        assert await asyncio.wait_for(end, 30) == -signal.SIGKILL
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("sign", ["READY=1", "WATCHDOG=1"])
async def test_from_its_first_sign_of_life_more_are_awaited(sign: str) -> None:
    """One that freezes before its first ping has not the time of a start left."""
    keeper = supervisor.Supervisor(1, {}, Listeners((), ()), Notifier())
    loop = asyncio.get_running_loop()
    nobody: Any = None
    worker = supervisor._Daemon(nobody, alive_until=loop.time() + supervisor._START_SECONDS)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        theirs.send(b"STATUS=starting\nEXTEND_TIMEOUT_USEC=90000000")
        keeper._hear(worker, ours)
        assert worker.alive_until > loop.time() + supervisor._LIFE_SECONDS + 1
        theirs.send(sign.encode())
        keeper._hear(worker, ours)
    assert worker.alive_until <= loop.time() + supervisor._LIFE_SECONDS


@pytest.mark.prove
async def test_each_of_them_serves_the_vault_and_the_operators(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    with three(database, issuer, tmp_path) as daemon:
        workers = workers_of(daemon)
        assert list(workers) == [0, 1, 2]
        for number in workers:
            with alone(workers, number):
                assert [await status_of(daemon) for _ in range(3)] == [200] * 3
                assert (await readiness(daemon))[0] == 200
        assert workers_of(daemon) == workers


@pytest.mark.prove
async def test_they_are_one_service(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    with service_manager() as manager:
        overrides = {"raw_NOTIFY_SOCKET": manager.address, "raw_WATCHDOG_USEC": "6000000"}
        with three(database, issuer, tmp_path, **overrides) as daemon:
            await eventually(
                lambda: manager.status.startswith(f"{COUNT} of {COUNT} processes | http:")
            )
            assert len(manager.said("READY")) == 1
            assert {message.sender for message in manager.messages} == {daemon.running.pid}
            count = len(manager.said("WATCHDOG"))
            await eventually(lambda: len(manager.said("WATCHDOG")) > count + 2)
            # What the service manager tells of itself is not for them.
            for worker in workers_of(daemon).values():
                names = variables_of(worker)
                assert "CUSTODY_WORKERS" in names
                assert not {name for name in names if name.startswith(("NOTIFY_", "LISTEN_"))}
            daemon.running.send_signal(signal.SIGTERM)
            await eventually(lambda: manager.said("STOPPING"))
            assert await daemon.ended(40) == 0
        assert {message.sender for message in manager.messages} == {daemon.running.pid}
        assert metrics_folders(tmp_path) == []


@pytest.mark.prove
async def test_ready_when_the_first_one_is(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """With the database down one process waits for it, and a reload reaches that one, too."""
    with service_manager() as manager, faulty_proxy(database.server.port) as proxy:
        proxy.fault = Fault.REFUSE
        url = database.through(proxy.port)
        overrides = {
            "raw_NOTIFY_SOCKET": manager.address,
            "WORKERS": str(COUNT),
            "DATABASE_URL": url,
            "raw_RUNTIME_DIRECTORY": str(tmp_path),
        }
        values: dict[str, Any] = {"cors_origins": []}
        with configured(
            database, issuer, tmp_path, values, probe="livez", module="custody", **overrides
        ) as at:
            await eventually(lambda: len(manager.said("EXTEND_TIMEOUT_USEC")) >= 3)
            await eventually(lambda: "NOT READY: database" in manager.status)
            assert list(workers_of(at.daemon)) == [0]
            await at.reloads(cors_origins=["https://app.example"])
            assert manager.said("READY") == manager.said("RELOADING") == []
            proxy.fault = Fault.NONE
            await eventually(lambda: manager.status.startswith(f"{COUNT} of {COUNT} "), 40)
            assert len(manager.said("READY")) == 1


@pytest.mark.prove
async def test_one_that_is_killed_is_replaced_and_the_others_serve(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    with three(database, issuer, tmp_path) as daemon:
        for number in range(COUNT):
            await is_replaced(daemon, number)
        assert [event["code"] for event in daemon.events("process_ended")] == [-9] * COUNT


@pytest.mark.prove
async def test_one_that_is_frozen_is_killed_and_replaced(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    module = "tests.e2e.quick_supervisor"
    with (
        service_manager() as manager,
        three(
            database, issuer, tmp_path, module=module, raw_NOTIFY_SOCKET=manager.address
        ) as daemon,
    ):
        # Until it has said that it is ready, it has the time of a start.
        await eventually(lambda: manager.status.startswith(f"{COUNT} of {COUNT} processes"))
        before = workers_of(daemon)
        os.kill(before[1], signal.SIGSTOP)
        async with load(daemon, ["alice"] * 4, "/status") as seen:
            await serving(daemon, COUNT + 1)
        assert (seen.answered > 0, seen.lost()) == (True, [])
        (frozen,) = {event["process"] for event in daemon.events("process_frozen")}
        assert frozen == before[1]
        after = workers_of(daemon)
        assert {number for number in after if after[number] != before[number]} == {1}


@pytest.mark.prove
async def test_all_of_them_replaced_while_the_database_is_down(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """No reason for the service manager to start the service anew: it hears signs of life."""
    with service_manager() as manager, faulty_proxy(database.server.port) as proxy:
        url = database.through(proxy.port)
        overrides = {"raw_NOTIFY_SOCKET": manager.address, "DATABASE_URL": url}
        with three(database, issuer, tmp_path, **overrides) as daemon:
            proxy.fault = Fault.REFUSE
            for worker in workers_of(daemon).values():
                os.kill(worker, signal.SIGKILL)
            await serving(daemon, 2 * COUNT)
            count = len(manager.said("WATCHDOG"))
            await eventually(lambda: len(manager.said("WATCHDOG")) > count + 2)
            assert manager.status.startswith(f"0 of {COUNT} processes | NOT READY: database")
            proxy.fault = Fault.NONE
            await eventually(
                lambda: manager.status.startswith(f"{COUNT} of {COUNT} processes | http")
            )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"KEK": "env:MISSING?id=missing"}, "neither MISSING nor MISSING_FILE is set"),
        pytest.param({"JWT_ISSUER": ""}, "CUSTODY_JWT_ISSUER must be set", marks=pytest.mark.prove),
        ({"RATE_LIMIT": "-1"}, "CUSTODY_RATE_LIMIT"),
    ],
    ids=["kek", "missing", "setting"],
)
async def test_configuration_error_is_one_line_and_no_loop(
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
    overrides: dict[str, str],
    expected: str,
) -> None:
    environ = settings_for(database, issuer, tmp_path, WORKERS=str(COUNT), **overrides)
    done = await asyncio.to_thread(custody, environ, "serve")
    assert done.code == 78
    assert expected in done.complaint
    assert done.err.count("process_started") <= 1


@pytest.mark.prove
async def test_configuration_that_breaks_later_ends_no_process_that_serves(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """One that can't start is tried again; it starts when the file is right again."""
    overrides = {"WORKERS": str(COUNT), "raw_RUNTIME_DIRECTORY": str(tmp_path)}
    values: dict[str, Any] = {"cors_origins": []}
    with configured(database, issuer, tmp_path, values, module="custody", **overrides) as at:
        await serving(at.daemon, COUNT)
        at.write(rate_limit=-1)
        os.kill(workers_of(at.daemon)[0], signal.SIGKILL)
        await eventually(
            lambda: [e["code"] for e in at.daemon.events("process_ended")] == [-9, 78], 40
        )
        assert await status_of(at.daemon) == 200
        at.write(rate_limit=0)
        await serving(at.daemon, COUNT + 1)


@pytest.mark.prove
async def test_they_end_with_a_supervisor_that_is_killed(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """Also one that was started just before."""
    with three(database, issuer, tmp_path) as daemon:
        first = workers_of(daemon)
        os.kill(first[2], signal.SIGKILL)
        await eventually(lambda: len(daemon.events("process_started")) == COUNT + 1)
        workers = workers_of(daemon).values()
        assert len(workers) == COUNT
        daemon.running.kill()
        assert await daemon.ended() == -signal.SIGKILL
        await eventually(lambda: not any(alive(worker) for worker in workers))
        for base in (daemon.base, daemon.admin):
            place = urlsplit(base)
            assert place.port is not None
            # Without SO_REUSEADDR, nobody may listen there.
            with socket.create_server(("127.0.0.1", place.port)):
                pass


@pytest.mark.prove
async def test_a_stop_under_load_cuts_nobody_off(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    users = [f"user-{n}" for n in range(32)]
    with three(database, issuer, tmp_path) as daemon:
        workers = workers_of(daemon).values()
        async with client_session() as session:
            made = await asyncio.gather(*(Client(daemon, session, u).init() for u in users))
        assert {answer.status for answer in made} == {200}
        async with load(daemon, users, keep_alive=True) as seen:
            await asyncio.sleep(2)
            assert seen.lost() == []
            stop = time.monotonic()
            daemon.running.send_signal(signal.SIGTERM)
            assert await daemon.ended(40) == 0
        assert seen.refused == seen.lost(before=stop) == []
        assert seen.answered >= len(users)
        assert not any(alive(worker) for worker in workers)


@pytest.mark.prove
async def test_while_they_drain_nobody_new_is_kept_waiting(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """What is under way is answered; a new connection is soon refused, not left in a queue."""
    with three(database, issuer, tmp_path) as daemon:
        async with client_session() as session:
            alice = Client(daemon, session, "alice")
            await alice.init()
            async with held(database):
                rotation = asyncio.create_task(alice.rotate())
                await one_waits(database)
                daemon.running.send_signal(signal.SIGTERM)
                await eventually(lambda: len(daemon.events("draining")) == COUNT)
                place = urlsplit(daemon.base)

                async def refused() -> bool:
                    try:
                        _, writer = await asyncio.open_connection(place.hostname, place.port)
                    except ConnectionRefusedError:
                        return True
                    writer.close()
                    return False

                await eventually(refused)
                assert daemon.running.poll() is None
            assert (await rotation).status == 200
        assert await daemon.ended(40) == 0


@pytest.mark.prove
async def test_a_reload_reaches_all_of_them(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """And is told of as one, when the last of them is done."""
    origin = "https://app.example"
    with service_manager() as manager:
        overrides = {
            "WORKERS": str(COUNT),
            "raw_RUNTIME_DIRECTORY": str(tmp_path),
            "raw_NOTIFY_SOCKET": manager.address,
        }
        values: dict[str, Any] = {"cors_origins": []}
        with configured(database, issuer, tmp_path, values, module="custody", **overrides) as at:
            await eventually(lambda: manager.status.startswith(f"{COUNT} of {COUNT}"), 40)
            at.write(cors_origins=[origin])
            at.hang_up()
            await eventually(lambda: len(manager.said("READY")) == 2)
            assert len(manager.said("RELOADING")) == 1
            assert len(at.daemon.events("reloaded")) == COUNT
            workers = workers_of(at.daemon)
            for number in workers:
                with alone(workers, number):
                    headers = {"Origin": origin, "Access-Control-Request-Method": "GET"}
                    assert (await wire.ask(at.daemon, "OPTIONS", "/key", headers)).status == 204
            at.write(rate_limit=-1)
            at.hang_up()
            await eventually(lambda: len(manager.said("READY")) == 3)
            assert "reload failed: CUSTODY_RATE_LIMIT" in manager.status


async def answered(daemon: Daemon) -> float:
    """Return how many answers to /status the metrics show, whoever shows them."""
    async with client_session() as session, session.get(f"{daemon.admin}/metrics") as answer:
        text = await answer.text()
    assert text.endswith("# EOF\n")
    found = re.findall(r'(?m)^custody_requests_total\{.*route="get_status".*\} ([0-9.e+]+)$', text)
    return sum(float(one) for one in found)


@pytest.mark.prove
async def test_metrics_are_those_of_all_of_them(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    with three(database, issuer, tmp_path) as daemon:
        workers = workers_of(daemon)
        for number in workers:
            with alone(workers, number):
                for _ in range(number + 1):
                    assert await status_of(daemon) == 200
                assert await answered(daemon) == sum(n + 1 for n in range(number + 1))
        total = await answered(daemon)
        assert total == 6
        for number in range(COUNT):
            os.kill(workers[number], signal.SIGKILL)
            await serving(daemon, COUNT + number + 1)
            assert [await answered(daemon) for _ in range(6)] == [total] * 6
        assert await status_of(daemon) == 200

        # Counted at the end of the turn, in the process that answered; another one may show it.
        async def counted() -> bool:
            return await answered(daemon) == total + 1

        await eventually(counted)


@pytest.mark.prove
async def test_one_of_them_re_wraps(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    """The first: while it stands still nothing is re-wrapped, and the others have no such role."""
    environ = {"OTHER_KEK": remember(OTHER_KEK)}
    old = Place("env:OTHER_KEK?id=other", "other", environ)
    overrides = {
        "OLD_KEKS": old.uri,
        "raw_OTHER_KEK": OTHER_KEK,
        "REWRAP_DATABASE_URL": database.url("custody_rewrap"),
        "REWRAP_INTERVAL": "1",
    }
    under = "SELECT kek_id FROM auth.encryption_vaults"
    connected = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE usename = 'custody_rewrap' AND datname = current_database()"
    )
    with three(database, issuer, tmp_path, **overrides) as daemon:
        first = workers_of(daemon)[0]
        with alone({0: first}, None):
            await database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = 'custody_rewrap' AND datname = current_database()"
            )
            present = Place("env:MANA_AUTH_KEK", "env-v1", {})
            await make_vaults(database, issuer, tmp_path, old, "alice", old=present)
            await asyncio.sleep(3)
            assert (await database.value(under), await database.value(connected)) == ("other", 0)

        async def moved() -> bool:
            return bool(await database.value(under) == "env-v1")

        await eventually(moved, 40)
        assert len(daemon.events("rewrap_begins")) == 1


@pytest.mark.prove
async def test_ctrl_c_ends_all_of_them(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    with three(database, issuer, tmp_path) as daemon:
        assert daemon.log is not None
        workers = workers_of(daemon).values()
        # What a terminal does: all of the group get it.
        os.killpg(daemon.running.pid, signal.SIGINT)
        assert await daemon.ended(40) == 0
        assert not any(alive(worker) for worker in workers)
        assert len(daemon.events("stopped")) == COUNT
        assert daemon.events("process_ended", "process_killed", "process_frozen") == []
        assert "Traceback" not in daemon.log.read_text()


@pytest.mark.prove
async def test_all_of_them_told_to_end_at_once(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """As a service manager does that signals the whole control group."""
    with three(database, issuer, tmp_path) as daemon:
        assert daemon.log is not None
        for worker in workers_of(daemon).values():
            os.kill(worker, signal.SIGTERM)
        daemon.running.send_signal(signal.SIGTERM)
        assert await daemon.ended(40) == 0
        assert "Traceback" not in daemon.log.read_text()


async def test_port_that_is_taken(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        environ = settings_for(database, issuer, tmp_path, WORKERS=str(COUNT), LISTEN=listen)
        done = await asyncio.to_thread(custody, environ, "serve")
    assert done.code == 1
    assert f"CUSTODY_LISTEN: can't listen on {listen}" in done.complaint
    assert "process_started" not in done.err


@pytest.mark.prove
async def test_unix_socket(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "vault.sock"
    with three(database, issuer, tmp_path, LISTEN=f"unix:{path}") as daemon:
        workers = workers_of(daemon)
        for number in workers:
            with alone(workers, number):
                assert await status_of(daemon) == 200
