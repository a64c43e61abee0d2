"""What is said to the service manager: datagrams on a real socket, and nobody waits for it."""

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from custody.ops.notify import Notifier, watchdog_seconds

WHAT_SYSTEMD_TAKES = 4096
MANY = 5_000

SAID: dict[str, tuple[Callable[[Notifier], object], str]] = {
    "ready": (lambda n: n.ready("127.0.0.1:3001"), "READY=1\nSTATUS=127.0.0.1:3001"),
    "stopping": (Notifier.stopping, "STOPPING=1\nSTATUS=answering what is under way"),
    "status": (lambda n: n.status("well"), "STATUS=well"),
    "alive": (Notifier.alive, "WATCHDOG=1"),
    "extend_start": (lambda n: n.extend_start(1.5), "EXTEND_TIMEOUT_USEC=1500000"),
}


@contextmanager
def service_manager(address: str) -> Iterator[tuple[socket.socket, Notifier]]:
    """Listen at an address as written in NOTIFY_SOCKET, and connect a notifier to it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(5)
        manager.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        notifier = Notifier.from_environ({"NOTIFY_SOCKET": address}, os.getpid())
        try:
            yield manager, notifier
        finally:
            assert notifier._channel is not None
            notifier._channel.close()


@pytest.fixture(params=["path", "abstract"])
def pair(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[socket.socket, Notifier]]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@custody{tmp_path}"
    with service_manager(address) as made:
        yield made


@pytest.mark.parametrize("name", SAID)
def test_message(pair: tuple[socket.socket, Notifier], name: str) -> None:
    manager, notifier = pair
    say, message = SAID[name]
    say(notifier)
    assert manager.recv(WHAT_SYSTEMD_TAKES).decode() == message


def test_reloading_says_when_it_began(pair: tuple[socket.socket, Notifier]) -> None:
    manager, notifier = pair
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    message = manager.recv(WHAT_SYSTEMD_TAKES).decode()
    said = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", message)
    assert said is not None
    assert before <= int(said[1]) <= after


@pytest.mark.parametrize("name", ["ready", "status"])
def test_status_is_one_line(pair: tuple[socket.socket, Notifier], name: str) -> None:
    manager, notifier = pair
    getattr(notifier, name)(" not well:\r\nREADY=1\n\tWATCHDOG=trigger ")
    *head, line = manager.recv(WHAT_SYSTEMD_TAKES).decode().split("\n")
    assert head == (["READY=1"] if name == "ready" else [])
    assert line == "STATUS=not well: READY=1 WATCHDOG=trigger"


def test_long_status_does_not_take_the_rest_with_it(
    pair: tuple[socket.socket, Notifier],
) -> None:
    manager, notifier = pair
    notifier.ready("ü" * 50_000)
    message = manager.recv(1_000_000)
    assert len(message) <= WHAT_SYSTEMD_TAKES
    assert message.decode().startswith("READY=1\nSTATUS=üüü")


def test_status_with_what_is_no_character(pair: tuple[socket.socket, Notifier]) -> None:
    manager, notifier = pair
    notifier.status(os.fsdecode(b"unix:/run/\xff"))
    assert manager.recv(WHAT_SYSTEMD_TAKES) == b"STATUS=unix:/run/?"


def say_everything(notifier: Notifier) -> None:
    for say, _ in SAID.values():
        say(notifier)
    notifier.reloading()


@pytest.mark.parametrize(
    "address", ["", "relative", "vsock:2:1234", "/nowhere/notify", "@", "/" + "x" * 200]
)
def test_nobody_listens(address: str) -> None:
    notifier = Notifier.from_environ(
        {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}, os.getpid()
    )
    assert notifier.watchdog_seconds is None
    say_everything(notifier)


def test_no_service_manager() -> None:
    say_everything(Notifier.from_environ({}, os.getpid()))
    say_everything(Notifier())


def test_listener_that_is_gone(tmp_path: Path) -> None:
    with service_manager(str(tmp_path / "notify")) as (manager, notifier):
        manager.close()
        say_everything(notifier)


def test_full_queue_holds_nobody_up(pair: tuple[socket.socket, Notifier]) -> None:
    manager, notifier = pair
    said = threading.Event()

    def say() -> None:
        for _ in range(MANY):
            notifier.status("x" * 1000)
        said.set()

    threading.Thread(target=say, daemon=True).start()
    assert said.wait(20)
    manager.setblocking(False)
    heard = 0
    with contextlib.suppress(BlockingIOError):
        while manager.recv(WHAT_SYSTEMD_TAKES):
            heard += 1
    assert heard < MANY  # the rest was thrown away


def test_socket_is_not_inherited(pair: tuple[socket.socket, Notifier]) -> None:
    _, notifier = pair
    assert notifier._channel is not None
    assert not notifier._channel.get_inheritable()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": ""}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "4711"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "4712"}, None),
        ({"WATCHDOG_USEC": "0", "WATCHDOG_PID": "4711"}, None),
        ({"WATCHDOG_USEC": "", "WATCHDOG_PID": "4711"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_PID": "4711"}, None),
    ],
)
def test_watchdog(environ: dict[str, str], seconds: float | None, tmp_path: Path) -> None:
    assert watchdog_seconds(environ, 4711) == seconds
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        notifier = Notifier.from_environ(environ | {"NOTIFY_SOCKET": path}, 4711)
        assert notifier.watchdog_seconds == seconds
        assert notifier._channel is not None
        notifier._channel.close()
