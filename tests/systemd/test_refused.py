"""What no start can cure: one line that says so, and no second start, whoever connects."""

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from tests.client import Client, client_session
from tests.eventually import soon
from tests.systemd.host import CREDENTIALS, KEKS, Host

pytestmark = pytest.mark.timeout(600)

_LONG_ENOUGH = 6


DATABASE, SHARED = "custody_database_url", ("mount", "-t", "tmpfs", "tmpfs")
# What is done to a host, how its daemon ends, and what that one line names. What is below
# /opt/custody is shared, and may not be changed.
REFUSED: dict[str, tuple[Callable[[Host], object], str, str]] = {
    "wrong_password": (
        lambda host: host.seal(DATABASE, re.sub(r":[^:@]+@", ":another@", url(host))),
        "78",
        "CUSTODY_DATABASE_URL",
    ),
    "wrong_role": (
        lambda host: host.seal(DATABASE, url(host, "custody_rewrap")),
        "78",
        "the role custody_rewrap is not custody_app",
    ),
    "other_key_under_the_same_name": (
        lambda host: host.make_kek("2026"),
        "78",
        "systemd:kek_2026",
    ),
    "no_key": (lambda host: host.run("rm", f"{KEKS}/2026"), "78", "systemd:kek_2026"),
    "no_url": (
        lambda host: host.run("rm", f"{CREDENTIALS}/{DATABASE}"),
        "78",
        "CUSTODY_DATABASE_URL",
    ),
    "sealed_under_another_name": (
        lambda host: host.run("mv", f"{CREDENTIALS}/custody_rewrap_database_url", f"{KEKS}/2026"),
        "243",
        "does not decrypt on this host under its name",
    ),
    "damaged": (
        lambda host: host.write(f"{CREDENTIALS}/{DATABASE}", "c2VhbGVkIG5vd2hlcmU=\n"),
        "243",
        "does not decrypt on this host under its name",
    ),
    "no_program": (
        lambda host: host.run(*SHARED, "/opt/custody"),
        "203",
        "/opt/custody/bin/custody, or the Python that it names, is not there",
    ),
    "no_folder_of_the_program": (
        lambda host: host.run(*SHARED, "/opt"),
        "226",
        "/opt/custody, or another path of the sandbox",
    ),
}


def url(host: Host, role: str = "custody_app") -> str:
    return host.daemon.database.url(role)


@pytest.mark.prove
@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_wrong_is_one_clear_line_and_no_restart_loop(name: str, debian: Host) -> None:
    spoil, code, named = REFUSED[name]
    # Served once, so that the database knows the KEK.
    debian.start()
    debian.systemctl("stop", "custody", "custody.socket")
    before = len(debian.journal("custody").splitlines())
    spoil(debian)

    debian.start("custody.socket")
    port = urlsplit(debian.daemon.base).port or 0
    refused = 0
    with contextlib.ExitStack() as waiting:
        # These wait at the socket, and would have the daemon started again and again.
        for _ in range(3):
            waiting.enter_context(socket.create_connection(("127.0.0.1", port)))
        soon(lambda: debian.property("ActiveState") == "failed")
        until = time.monotonic() + _LONG_ENOUGH
        while time.monotonic() < until:
            with contextlib.suppress(ConnectionResetError):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=5).close()
                except ConnectionRefusedError:
                    refused += 1
            await asyncio.sleep(0.05)

    assert refused > 50
    assert debian.show("ActiveState", "Result", "NRestarts") == ["failed", "exit-code", "0"]
    assert debian.property("ExecMainStatus") == code
    assert debian.property("ActiveState", "custody.socket") == "inactive"
    journal = debian.journal("custody").splitlines()[before:]
    assert sum(line.startswith("Starting custody.service") for line in journal) == 1
    (said,) = (line for line in journal if line.startswith("custody: "))
    assert named in said


@pytest.mark.prove
@pytest.mark.parametrize("name", ["no_key", "damaged", "no_program"])
def test_what_a_new_start_cannot_cure_is_not_started_again(name: str, debian: Host) -> None:
    # Without the stop of the socket, which would end a restart, too.
    debian.drop_in("custody.service", "[Service]", "ExecStopPost=", "RestartSec=100ms")
    REFUSED[name][0](debian)
    debian.systemctl("start", "custody")
    time.sleep(3)
    assert debian.show("ActiveState", "NRestarts") == ["failed", "0"]


@pytest.mark.prove
def test_a_start_by_hand_fails_and_says_so_too(debian: Host) -> None:
    REFUSED["damaged"][0](debian)
    assert debian.systemctl("start", "custody").returncode == 1
    soon(lambda: debian.property("ActiveState") == "failed")
    debian.run("journalctl", "--sync")
    status = debian.systemctl("status", "--no-pager", "custody").stdout
    assert "status=243/CREDENTIALS" in status
    assert "custody: a credential in /etc/credstore.encrypted" in status


@pytest.mark.prove
@pytest.mark.parametrize("name", ["no_program", "no_folder_of_the_program"])
def test_no_client_waits_for_a_program_that_is_not_there(name: str, debian: Host) -> None:
    spoil, code, named = REFUSED[name]
    spoil(debian)
    debian.start("custody.socket")
    port = urlsplit(debian.daemon.base).port or 0
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as client,
        contextlib.suppress(ConnectionResetError),
    ):
        assert client.recv(1) == b""
    # The next one is refused at once.
    soon(lambda: debian.property("ActiveState", "custody.socket") == "inactive")
    assert debian.show("ActiveState", "ExecMainStatus", "NRestarts") == ["failed", code, "0"]
    (said,) = debian.said()
    assert named in said


@pytest.mark.prove
def test_no_client_waits_for_a_daemon_without_its_user(debian: Host) -> None:
    debian.drop_in("custody.service", "[Service]", "User=nobody-knows")
    debian.start("custody.socket")
    port = urlsplit(debian.daemon.base).port or 0
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as client,
        contextlib.suppress(ConnectionResetError),
    ):
        assert client.recv(1) == b""
    # It has given up by itself: nothing of the unit could stop it.
    soon(lambda: debian.property("ActiveState", "custody.socket") == "failed")
    assert debian.show("ActiveState", "ExecMainStatus", "NRestarts") == ["failed", "217", "0"]
    alarm = "custody: custody.service has failed (exit-code, 217): journalctl --unit=custody"
    soon(lambda: alarm in debian.journal("custody-failed@custody"))


@pytest.mark.prove
async def test_once_the_credential_is_right_a_start_opens_the_socket_again(debian: Host) -> None:
    REFUSED["damaged"][0](debian)
    debian.systemctl("start", "custody")
    soon(lambda: debian.property("ActiveState", "custody.socket") == "inactive")
    debian.seal("custody_database_url", debian.daemon.database.url("custody_app"))
    debian.start()
    assert debian.property("ActiveState", "custody.socket") == "active"
    async with client_session() as session:
        assert (await Client(debian.daemon, session, "alice").init()).status == 200
