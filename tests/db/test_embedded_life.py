"""The embedded PostgreSQL starts, ends, and starts again, whatever happened in between."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from custody.development.postgres import EmbeddedError, EmbeddedPostgres
from custody.development.postgres import server as server_module
from custody.development.postgres.lock import pid_file
from custody.development.postgres.user import ServerUser, choose_user
from tests.db.embedded_server import alive, needs_proc, pid_of, query
from tests.eventually import soon
from tests.ports import free_port
from tests.servers import ROOT


@pytest.mark.prove
def test_the_second_start_finds_the_data_and_the_passwords(folder: Path) -> None:
    server = EmbeddedPostgres(folder / "a" / "pg")
    with pytest.raises(EmbeddedError, match=r"call start\(\) first"):
        server.url("postgres")
    with pytest.raises(EmbeddedError, match=r"call start\(\) first"):
        _ = server.bin
    server.stop()  # nothing to stop
    with server:
        query(server, "CREATE TABLE kept AS SELECT 42 AS answer", "custody_owner")
        words = (server.folder / "pgpass").read_text()
        pid = pid_of(server)
        assert query(server, "SHOW fsync") == query(server, "SHOW full_page_writes") == "on"
    assert not alive(pid)
    server.stop()
    with EmbeddedPostgres(folder / "a" / "pg", durable=False) as again:
        assert query(again, "SELECT answer FROM kept", "custody_owner") == "42"
        assert (again.folder / "pgpass").read_text() == words
        assert query(again, "SHOW fsync") == query(again, "SHOW synchronous_commit") == "off"


@pytest.mark.prove
def test_a_first_start_that_was_interrupted_begins_again(folder: Path) -> None:
    place = folder / "pg"
    (place / "data.new" / "base").mkdir(parents=True)
    (place / "data.new" / "PG_VERSION").write_text("18\n")
    (place / "pwfile").write_text("old\n")
    with EmbeddedPostgres(place, durable=False) as server:
        assert query(server, "SELECT 1", "custody_owner") == "1"
    assert not (place / "data.new").exists()
    assert not (place / "pwfile").exists()


@pytest.mark.prove
def test_a_sigkill_of_the_postmaster_does_not_stop_the_next_start(folder: Path) -> None:
    server = EmbeddedPostgres(folder / "pg")
    server.start()
    try:
        query(server, "CREATE TABLE kept AS SELECT 42 AS answer", "custody_owner")
        os.kill(pid_of(server), signal.SIGKILL)
        assert (server.folder / "data" / "postmaster.pid").exists()
        with EmbeddedPostgres(folder / "pg") as again:
            assert query(again, "SELECT answer FROM kept", "custody_owner") == "42"
    finally:
        server.stop()


@pytest.mark.prove
@needs_proc
def test_a_stale_pid_that_is_another_process_by_now_does_not_stop_the_start(folder: Path) -> None:
    with EmbeddedPostgres(folder / "pg", durable=False) as server:
        pid_file = server.folder / "data" / "postmaster.pid"
        lines = pid_file.read_text().split("\n", 1)
    user = choose_user()
    other = user.spawn(["/bin/sleep", "60"], stdin=subprocess.DEVNULL, output=subprocess.DEVNULL)
    try:
        pid_file.write_text(f"{other.pid}\n{lines[1]}")
        with EmbeddedPostgres(folder / "pg", durable=False) as again:
            assert query(again, "SELECT 1") == "1"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.prove
def test_a_live_server_on_the_folder_is_refused_and_unharmed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("custody.development.postgres.lock._LOCK_SECONDS", 0.2)
    with EmbeddedPostgres(folder / "pg", durable=False) as server:
        pid = pid_of(server)
        for second in (server, EmbeddedPostgres(folder / "pg", durable=False)):
            with pytest.raises(
                EmbeddedError, match=rf"running \(pid {pid}\): stop its custody dev"
            ):
                second.start()
        assert query(server, "SELECT 1") == "1"


@pytest.mark.prove
@needs_proc
def test_a_server_started_by_hand_is_refused_too(folder: Path) -> None:
    with EmbeddedPostgres(folder / "pg", durable=False) as server:
        data, bin_folder = server.folder / "data", server.bin
    command = [str(bin_folder / "postgres"), "-D", str(data), "-k", ""]
    by_hand = choose_user().spawn(
        [*command, "-c", f"port={free_port()}"],
        stdin=subprocess.DEVNULL,
        output=subprocess.DEVNULL,
    )
    try:
        soon(lambda: "ready" in pid_file(folder / "pg"))
        with pytest.raises(EmbeddedError, match=rf"already running \(pid {by_hand.pid}\)"):
            EmbeddedPostgres(folder / "pg", durable=False).start()
        assert by_hand.poll() is None
    finally:
        by_hand.send_signal(signal.SIGINT)
        by_hand.wait(30)


@pytest.mark.prove
def test_a_port_lost_to_somebody_else_is_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        lost = taken.getsockname()[1]
        ports = iter([lost, lost, free_port()])
        monkeypatch.setattr(server_module, "_free_port", lambda: next(ports))
        with EmbeddedPostgres(folder / "pg", durable=False) as server:
            assert server.port != lost
            assert query(server, "SELECT 1") == "1"
        monkeypatch.setattr(server_module, "_free_port", lambda: lost)
        with pytest.raises(EmbeddedError, match="no port"):
            server.start()


@pytest.mark.prove
def test_it_outlives_the_thread_that_started_it(folder: Path) -> None:
    server = EmbeddedPostgres(folder / "pg", durable=False)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        time.sleep(0.3)
        assert query(server, "SELECT 1") == "1"
    finally:
        server.stop()


@pytest.mark.prove
async def test_it_starts_and_stops_beside_a_running_loop(folder: Path) -> None:
    server = EmbeddedPostgres(folder / "pg", durable=False)
    await asyncio.to_thread(server.start)
    try:
        await asyncio.to_thread(server.grant_logins)
        assert await asyncio.to_thread(query, server, "SELECT 1", "custody_rewrap") == "1"
    finally:
        await asyncio.to_thread(server.stop)


@pytest.mark.prove
def test_a_server_that_does_not_stop_is_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_STOP_SECONDS", 0.2)
    monkeypatch.setattr(server_module, "_QUIT_SECONDS", 1)
    server = EmbeddedPostgres(folder / "pg", durable=False)
    server.start()
    pid = pid_of(server)
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert not alive(pid)


@pytest.mark.prove
def test_logins_that_cannot_be_granted_are_explained_without_a_secret(folder: Path) -> None:
    with EmbeddedPostgres(folder / "pg", durable=False) as server:
        query(server, "ALTER SYSTEM SET default_transaction_read_only = on")
        query(server, "SELECT pg_reload_conf()")
        soon(lambda: query(server, "SHOW default_transaction_read_only") == "on")
        with pytest.raises(EmbeddedError, match=r"read-only transaction.*postgres\.log") as caught:
            server.grant_logins()
        words = [line.split(":")[4] for line in (server.folder / "pgpass").read_text().splitlines()]
        shown = str(caught.value) + (server.folder / "postgres.log").read_text()
        assert not [word for word in words if word in shown]
    with pytest.raises(EmbeddedError, match=r"call start\(\) first"):
        server.grant_logins()


DAEMON = """
import sys, time
from pathlib import Path
from custody.development.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), durable=False)
server.start()
server.grant_logins()
try:
    print((server.folder / "data" / "postmaster.pid").read_text().split()[0], flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    server.grant_logins()  # the server is still there
    server.stop()
    print("stopped", flush=True)
"""


@pytest.fixture
def daemon(folder: Path) -> Iterator["tuple[subprocess.Popen[str], int]"]:
    """A daemon with a server, and the pid of that."""
    command = [sys.executable, "-c", DAEMON, str(folder / "pg")]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stdout is not None
        yield process, int(next(line for line in process.stdout if line.strip().isdecimal()))


@pytest.mark.prove
def test_it_dies_with_a_daemon_that_was_killed(
    folder: Path, daemon: "tuple[subprocess.Popen[str], int]"
) -> None:
    process, pid = daemon
    assert alive(pid)
    process.kill()
    process.wait()
    # At once, without a pause: the next start waits for the old server to be gone.
    with EmbeddedPostgres(folder / "pg", durable=False) as server:
        assert query(server, "SELECT 1", "custody_app") == "1"
        assert not alive(pid)


# It is killed once the server's process is made, and before it knows of it.
KILLED = """
import os, signal, sys
from pathlib import Path
from custody.development.postgres import EmbeddedPostgres
from custody.development.postgres.user import ServerUser
spawn = ServerUser.spawn
def killed(user, command, **options):
    process = spawn(user, command, **options)
    if process.stdin is None:
        print(process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return process
ServerUser.spawn = killed
EmbeddedPostgres(Path(sys.argv[1]), durable=False).start()
"""


@pytest.mark.prove
def test_a_kill_before_its_process_is_known_leaves_no_server(folder: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(folder / "pg")]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    soon(lambda: not alive(int(done.stdout)), 30)
    with EmbeddedPostgres(folder / "pg", durable=False) as again:
        assert query(again, "SELECT 1") == "1"


@pytest.mark.prove
def test_a_ctrl_c_before_its_process_is_known_leaves_no_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder / "pg"
    spawn, spawned = ServerUser.spawn, []

    def interrupted(user: ServerUser, command: list[str], **options: Any) -> Any:
        process = spawn(user, command, **options)
        if process.stdin is not None:  # the watch
            return process
        spawned.append(process)
        soon((place / "data" / "postmaster.pid").exists)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ServerUser, "spawn", interrupted)
        with pytest.raises(KeyboardInterrupt):
            EmbeddedPostgres(place, durable=False).start()
    (server,) = spawned
    assert server.wait(30) == 0
    with EmbeddedPostgres(place, durable=False) as again:
        assert query(again, "SELECT 1") == "1"


@pytest.mark.prove
def test_a_ctrl_c_ends_the_daemon_first(daemon: "tuple[subprocess.Popen[str], int]") -> None:
    process, pid = daemon
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    output, _ = process.communicate(timeout=30)
    assert "stopped" in output
    assert process.returncode == 0
    assert not alive(pid)
