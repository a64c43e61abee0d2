"""Lines of the audit over TCP: how they are told apart, and what is said of a receiver."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from custody.audit.export import Line
from custody.audit.targets import stream
from custody.audit.targets.stream import SyslogStream, reason_of
from custody.audit.targets.syslog import message
from custody.audit.targets.target import TargetDown
from tests.ports import free_port

LINES = [Line("one", 1, None), Line("a longer one", 2, None)]


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[SyslogStream, socket.socket]]:
    """Have a stream, and the receiver's end of its connection."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        syslog = SyslogStream("127.0.0.1", server.getsockname()[1], tls=False)
        await syslog.open()
        receiver, _ = await loop.sock_accept(server)
    with receiver:
        try:
            yield syslog, receiver
        finally:
            syslog.close()


async def test_lines_are_told_apart_by_their_length() -> None:
    async with connected() as (syslog, receiver):
        syslog.check()
        await syslog.send(LINES)
        taken = await asyncio.get_running_loop().sock_recv(receiver, 10_000)
    sent = [message(line) for line in LINES]
    assert taken == b"".join(b"%d %s" % (len(one), one) for one in sent)


async def test_nothing_is_sent_where_there_is_no_connection() -> None:
    async with connected() as (syslog, receiver):
        port = receiver.getsockname()[1]
        syslog.close()
        for one in (syslog, SyslogStream("127.0.0.1", port, tls=False)):
            with pytest.raises(TargetDown, match=f"^syslog at 127.0.0.1:{port}: not connected$"):
                await one.send(LINES)


async def test_a_receiver_that_goes_is_noticed() -> None:
    async with connected() as (syslog, receiver):
        port = receiver.getsockname()[1]
        receiver.close()
        told = f"^syslog at 127.0.0.1:{port}: the connection was closed$"
        with pytest.raises(TargetDown, match=told):
            await looked_at(syslog)


async def looked_at(syslog: SyslogStream) -> None:
    """Look again and again."""
    async with asyncio.timeout(10):
        while True:
            syslog.check()
            await asyncio.sleep(0.01)


async def test_one_that_is_not_there() -> None:
    port = free_port()
    with pytest.raises(TargetDown, match=f"^syslog at 127.0.0.1:{port}: Connect call failed"):
        await SyslogStream("127.0.0.1", port, tls=False).open()


async def test_one_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel takes what fits in there, and no more."""
    monkeypatch.setattr(stream, "TAKE_SECONDS", 0.2)
    async with connected() as (syslog, _):
        with pytest.raises(TargetDown, match="it has taken nothing for 0 s"):
            await syslog.send([Line("x" * 10_000, 1, None)] * 2_000)


class Wordless(OSError):
    """Has no words of its own."""


def test_why_a_connection_failed() -> None:
    untrusted = ssl.SSLCertVerificationError("certificate verify failed")
    untrusted.verify_message = "self-signed certificate"
    reasons = {
        untrusted: "its certificate does not verify: self-signed certificate",
        OSError(111, "Connection refused"): "Connection refused",
        ValueError("with words"): "with words",
        Wordless(): "Wordless",
    }
    assert {error: reason_of(error) for error in reasons} == reasons
