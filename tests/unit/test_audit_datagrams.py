"""Lines of the audit to a socket of this host: each whole or not at all."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from custody.audit.export import Line
from custody.audit.targets import datagrams
from custody.audit.targets.datagrams import Datagrams, TooLong
from custody.audit.targets.syslog import MAX_LENGTH, SyslogSocket, message
from custody.audit.targets.target import TargetDown, TargetUnfit

LINE = Line("a line", 1, None)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


@pytest.fixture
def receiver(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(path)
        made.settimeout(5)
        yield made


@pytest.fixture
def made(path: str) -> Iterator[Datagrams]:
    one = Datagrams(path)
    yield one
    one.close()


async def test_each_line_is_one_datagram(path: str, receiver: socket.socket) -> None:
    target = SyslogSocket(path)
    await target.open()
    await target.send([LINE, LINE])
    assert [receiver.recv(1000) for _ in range(2)] == [message(LINE)] * 2
    target.check()
    target.close()
    with pytest.raises(TargetDown, match=f"^{path} is not open$"):
        await target.send([LINE])


@pytest.mark.usefixtures("receiver")
async def test_one_that_is_longer_than_the_socket_takes(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = SyslogSocket(path)
    await target.open()
    monkeypatch.setattr("custody.audit.targets.syslog.MAX_LENGTH", 10_000_000)
    told = f"^{path} takes no message of 10000000 bytes$"
    with pytest.raises(TargetDown, match=told):
        await target.send([Line("x" * 5_000_000, 1, None)])
    target.close()
    assert MAX_LENGTH == 16_384


async def test_who_is_not_there_is_said(made: Datagrams, path: str) -> None:
    with pytest.raises(TargetDown, match=f"^{path}: No such file or directory$"):
        made.open()
    with pytest.raises(TargetDown, match=f"^{path} is not open$"):
        await made.send(b"x")
    with pytest.raises(TargetDown, match=f"^{path} is not open$"):
        await made.hand_over(0)


async def test_a_socket_of_another_kind_is_unfit(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen()
        with pytest.raises(TargetUnfit, match=f"^{path} is no socket of datagrams$"):
            Datagrams(path).open()


async def test_who_goes_is_noticed_at_the_next(
    made: Datagrams, path: str, receiver: socket.socket
) -> None:
    made.open()
    receiver.close()
    with pytest.raises(TargetDown, match=f"^{path}: Connection refused$"):
        await made.send(b"x")
    with pytest.raises(TargetDown, match=f"^{path}: Transport endpoint is not connected$"):
        await made.hand_over(0)


async def test_a_descriptor_is_handed_over(
    made: Datagrams, path: str, receiver: socket.socket, tmp_path: Path
) -> None:
    made.open()
    with (tmp_path / "file").open("w+") as file:
        file.write("what is in it")
        file.flush()
        await made.hand_over(file.fileno())
    data, (got,), *_ = socket.recv_fds(receiver, 10, 1)
    assert data == b""
    assert os.pread(got, 100, 0) == b"what is in it"
    os.close(got)


@pytest.mark.usefixtures("receiver")
@pytest.mark.parametrize("what", ["data", "descriptor"])
async def test_who_takes_nothing_is_given_up(
    made: Datagrams, path: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagrams, "TAKE_SECONDS", 0.1)
    made.open()
    with pytest.raises(TargetDown, match=f"^{path} has taken nothing for 0 s$"):
        await filled(made, what)


async def filled(made: Datagrams, what: str) -> None:
    """Send more than any queue holds."""
    for _ in range(10_000):
        await (made.send(b"x") if what == "data" else made.hand_over(0))


async def test_it_is_opened_anew(made: Datagrams, path: str, receiver: socket.socket) -> None:
    made.open()
    made.open()
    await made.send(b"x")
    assert receiver.recv(10) == b"x"
    for _ in range(2):
        made.close()


async def test_what_is_too_long_holds_up_nothing(
    made: Datagrams, path: str, receiver: socket.socket
) -> None:
    made.open()
    with pytest.raises(TooLong):
        await made.send(bytes(5_000_000))
    await made.send(b"the next")
    assert receiver.recv(100) == b"the next"
