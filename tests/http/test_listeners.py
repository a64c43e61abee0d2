"""Sockets to listen on: opened from settings, or handed over as systemd does."""

import grp
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from custody.settings import ConfigurationError, load
from custody.sockets import listeners
from custody.sockets.addresses import ListenError
from custody.sockets.listeners import Listeners, adopt, open_listeners, take_handed_over
from custody.sockets.site import Site
from tests.http.wire import Greeter, exchange, unbounded
from tests.ports import free_port

# Where descriptors are handed over in these tests: at 3 this process has others.
FIRST = 700
LONGEST_QUEUE = int(Path("/proc/sys/net/core/somaxconn").read_text())
OURS = 4711
CURE = "write ListenStream= in the socket unit, and Accept=no"


def settings(vault: str | None = None, admin: str | None = "127.0.0.1:0") -> Any:
    given = {"CUSTODY_LISTEN": vault, "CUSTODY_ADMIN_LISTEN": admin}
    return load({name: value for name, value in given.items() if value is not None})


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def is_open(place: int | str | Path) -> bool:
    """Say whether somebody listens."""
    if isinstance(place, int):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", place)) == 0
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(place)) == 0


def queue_length(listener: socket.socket) -> int:
    """Return how many connections wait at most: tcpi_sacked of tcp(7)'s TCP_INFO, as ss has it."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("I", info, 28)[0])


class ServiceManager:
    """Opens sockets, keeps them, and hands copies over."""

    def __init__(self) -> None:
        self.kept: list[socket.socket] = []

    def keep(self, opened: socket.socket) -> int:
        """Hand a socket over, too, and return its port."""
        os.dup2(opened.fileno(), FIRST + len(self.kept))
        self.kept.append(opened)
        return port_of(opened) if opened.family == socket.AF_INET else 0

    def listen(self, queue: int = 128) -> int:
        """Open a port, and return it."""
        return self.keep(socket.create_server(("127.0.0.1", 0), backlog=queue))

    def environ(self, names: str | None = None) -> dict[str, str]:
        """Return the variables of sd_listen_fds(3)."""
        named = {} if names is None else {"LISTEN_FDNAMES": names}
        return {"LISTEN_PID": str(OURS), "LISTEN_FDS": str(len(self.kept)), **named}


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceManager]:
    monkeypatch.setattr(listeners, "_FIRST_HANDED_OVER", FIRST)
    made = ServiceManager()
    yield made
    for number, one in enumerate(made.kept):
        one.close()
        with suppress(OSError):  # taken, and closed
            os.close(FIRST + number)


def opened(given: Any, environ: Mapping[str, str] | None = None) -> closing[Listeners]:
    return closing(open_listeners(given, take_handed_over(environ or {}, OURS)))


# ── handed over ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("names", [None, "", "vault", "custody.socket"])
def test_one_socket_is_the_vaults(manager: ServiceManager, names: str | None) -> None:
    port = manager.listen()
    with opened(settings(), manager.environ(names)) as made:
        assert [port_of(one) for one in made.vault] == [port]
        assert [port_of(one) for one in made.admin] != [port]
        assert made.vault[0].get_inheritable() is False
        assert made.vault[0].fileno() == FIRST


@pytest.mark.parametrize("names", ["vault:admin", "admin:vault"])
def test_two_sockets_by_name(manager: ServiceManager, names: str) -> None:
    ports = dict(zip(names.split(":"), (manager.listen(), manager.listen()), strict=True))
    with opened(settings(admin=None), manager.environ(names)) as made:
        assert [port_of(one) for one in made.vault] == [ports["vault"]]
        assert [port_of(one) for one in made.admin] == [ports["admin"]]


def test_admin_socket_alone(manager: ServiceManager) -> None:
    port = manager.listen()
    with opened(settings(vault="127.0.0.1:0", admin=None), manager.environ("admin")) as made:
        assert [port_of(one) for one in made.admin] == [port]


@pytest.mark.parametrize("names", [None, "vault:vault", "custody.socket:custody.socket"])
def test_all_sockets_of_one_unit_are_the_vaults(manager: ServiceManager, names: str | None) -> None:
    """Two lines ListenStream=, as for IPv4 and IPv6: systemd gives both the name of the unit."""
    ports = [manager.listen(), manager.listen()]
    with opened(settings(), manager.environ(names)) as made:
        assert [port_of(one) for one in made.vault] == ports


@pytest.mark.parametrize("names", ["vault:other", "one:other", "admin:other", "vault:"])
def test_name_that_says_nothing(manager: ServiceManager, names: str) -> None:
    ports = [manager.listen(), manager.listen()]
    cure = "FileDescriptorName=vault or FileDescriptorName=admin"
    with pytest.raises(ConfigurationError, match=cure), opened(settings(), manager.environ(names)):
        pass
    assert all(is_open(port) for port in ports)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(FIRST)


@pytest.mark.parametrize(
    "change",
    [
        {"LISTEN_PID": str(OURS + 1)},
        {"LISTEN_PID": ""},
        {"LISTEN_FDS": ""},
        {"LISTEN_FDS": "0"},
        {"LISTEN_FDS": "-1"},
        {"LISTEN_FDS": "many"},
    ],
)
def test_nothing_for_this_process(manager: ServiceManager, change: dict[str, str]) -> None:
    port = manager.listen()
    environ = manager.environ("vault") | change
    assert take_handed_over(environ, OURS) == {}
    os.fstat(FIRST)  # and left as it is
    with opened(settings(vault="127.0.0.1:0"), environ) as made:
        assert port_of(made.vault[0]) != port


def test_no_service_manager() -> None:
    assert take_handed_over({}, OURS) == {}


def test_address_that_is_set_wins(manager: ServiceManager) -> None:
    handed_over = [manager.listen(), manager.listen()]
    ports = [free_port(), free_port()]
    given = settings(vault=f"127.0.0.1:{ports[0]}", admin=f"127.0.0.1:{ports[1]}")
    with opened(given, manager.environ("vault:admin")) as made:
        assert [port_of(one) for one in (*made.vault, *made.admin)] == ports
        for number in range(2):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(FIRST + number)
        assert all(is_open(port) for port in handed_over)


# Nobody can accept connections from these.
UNUSABLE = {
    "datagram": (socket.AF_INET, socket.SOCK_DGRAM),
    "not listening": (socket.AF_INET, socket.SOCK_STREAM),
    "connected": (socket.AF_UNIX, socket.SOCK_STREAM),
    "packets": (socket.AF_UNIX, socket.SOCK_SEQPACKET),
}


def unusable(name: str, folder: Path) -> socket.socket:
    if name == "connected":
        made, other = socket.socketpair()
        other.close()
        return made
    made = socket.socket(*UNUSABLE[name])
    made.bind(str(folder / "packets") if name == "packets" else ("127.0.0.1", 0))
    if name == "packets":
        made.listen()
    return made


@pytest.mark.parametrize("name", UNUSABLE)
def test_socket_that_is_of_no_use(manager: ServiceManager, tmp_path: Path, name: str) -> None:
    manager.listen()
    manager.keep(unusable(name, tmp_path))
    with pytest.raises(ConfigurationError, match=f"descriptor {FIRST + 1} .*{CURE}"):
        take_handed_over(manager.environ("vault:admin"), OURS)
    for number in range(2):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(FIRST + number)


def test_descriptor_that_is_no_socket(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, pytest.raises(ConfigurationError, match=CURE):
        adopt(file.fileno())
    with pytest.raises(ConfigurationError, match=CURE):
        adopt(FIRST + 50)


def test_service_managers_own_stays_open(manager: ServiceManager) -> None:
    port = manager.listen()
    made = open_listeners(settings(), take_handed_over(manager.environ(), OURS))
    admin = port_of(made.admin[0])
    made.close()
    made.close()
    assert is_open(port)
    assert not is_open(admin)


# ── opened here ───────────────────────────────────────────────────────────────


def test_taken_port_closes_what_was_opened(manager: ServiceManager) -> None:
    handed_over, admin = manager.listen(), free_port()
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{port_of(other)}"
        given = settings(vault=address, admin=f"127.0.0.1:{admin}")
        message = f"CUSTODY_LISTEN: can't listen on {address}: Address already in use; stop what"
        with pytest.raises(ListenError, match=message):
            open_listeners(given, take_handed_over(manager.environ("vault"), OURS))
        assert is_open(port_of(other))
    assert not is_open(admin)
    assert is_open(handed_over)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(FIRST)


def test_port_of_a_daemon_that_has_just_ended() -> None:
    """What is left of its connections keeps nobody from listening."""
    with opened(settings("127.0.0.1:0")) as made:
        port = port_of(made.vault[0])
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = made.vault[0].accept()
            accepted.close()  # this end is in TIME_WAIT after it
            client.recv(1)
    with opened(settings(f"127.0.0.1:{port}")) as made:
        assert port_of(made.vault[0]) == port


def names_several(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Have a name stand for these addresses."""
    resolve = socket.getaddrinfo

    def answer(_host: str, port: int, **options: Any) -> list[Any]:
        return [found for host in hosts for found in resolve(host, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
        return True


@asynccontextmanager
async def served(made: Listeners) -> AsyncIterator[str]:
    """Say hello on all of the vault's; yields the address."""
    site = Site(Greeter, made.vault, unbounded())
    try:
        yield site.address
    finally:
        await site.stop()


@pytest.mark.parametrize("second", ["127.0.0.2", "::1"])
async def test_name_with_two_addresses(monkeypatch: pytest.MonkeyPatch, second: str) -> None:
    if second == "::1" and not has_ipv6():
        pytest.skip("this host has no IPv6")
    port = free_port()
    with monkeypatch.context() as patch:
        names_several(patch, "127.0.0.1", second)
        made = open_listeners(settings(f"localhost:{port}"), {})
    try:
        async with served(made) as address:
            assert address == f"http://127.0.0.1:{port}"
            shown = f"[{second}]" if ":" in second else second
            for host in ("127.0.0.1", shown):
                assert await exchange(f"http://{host}:{port}/") == b"hello"
    finally:
        made.close()


async def test_ipv6_address() -> None:
    if not has_ipv6():
        pytest.skip("this host has no IPv6")
    port = free_port()
    with opened(settings(f"[::1]:{port}")) as made:
        async with served(made) as address:
            assert address == f"http://[::1]:{port}"
            assert await exchange(address) == b"hello"


def test_name_with_an_address_that_the_host_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ::1 of localhost, where the kernel has no IPv6."""
    port = free_port()
    names_several(monkeypatch, "192.0.2.1", "127.0.0.1")
    with opened(settings(f"localhost:{port}")) as made:
        assert [one.getsockname() for one in made.vault] == [("127.0.0.1", port)]


def test_address_that_the_host_has_not() -> None:
    with pytest.raises(ConfigurationError, match="this host has no such address"):
        open_listeners(settings("192.0.2.1:3001"), {})


def test_second_address_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    names_several(monkeypatch, "127.0.0.2", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = port_of(other)
        with pytest.raises(ListenError, match="Address already in use"):
            open_listeners(settings(f"localhost:{port}"), {})
    with socket.create_server(("127.0.0.2", port)):
        pass  # was closed again


# ── unix sockets ──────────────────────────────────────────────────────────────


async def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "vault"
    with opened(settings(f"unix:{path}")) as made:
        async with served(made) as address:
            assert address == f"unix:{path}"
            assert await exchange(address) == b"hello"


def test_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "vault"
    killed = socket.socket(socket.AF_UNIX)
    killed.bind(str(path))
    killed.close()
    assert path.is_socket()
    assert not is_open(path)
    with opened(settings(f"unix:{path}")):
        assert is_open(path)


@pytest.mark.parametrize("queue", ["free", "full"])
def test_live_unix_socket_is_refused(tmp_path: Path, queue: str) -> None:
    path = tmp_path / "vault"
    with ExitStack() as stack:
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(str(path))
        other.listen(0)
        if queue == "full":
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.connect(str(path))
        with pytest.raises(ListenError, match=f"CUSTODY_LISTEN: can't listen on unix:{path}: "):
            open_listeners(settings(f"unix:{path}"), {})
        accepted, _ = other.accept()
        accepted.close()
        assert is_open(path)


def test_file_at_the_path_of_a_unix_socket_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vault"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="something that is no socket; remove it"):
        open_listeners(settings(f"unix:{path}"), {})
    assert path.read_text() == "precious"


def test_path_in_no_folder() -> None:
    with pytest.raises(ConfigurationError, match="there is no folder /nowhere; make that"):
        open_listeners(settings("unix:/nowhere/vault"), {})


def test_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="107 bytes at most"):
        open_listeners(settings(f"unix:{tmp_path}/{'x' * 108}"), {})


def test_unix_socket_with_a_mode_and_a_group(tmp_path: Path) -> None:
    path, group = tmp_path / "vault", grp.getgrgid(os.getgid()).gr_name
    with opened(settings(f"unix:{path}?mode=0660&group={group}")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert path.stat().st_gid == os.getgid()
        assert is_open(path)
    with pytest.raises(ConfigurationError, match="there is no group nobody-here; name a group"):
        open_listeners(settings(f"unix:{path}?group=nobody-here"), {})


def test_unix_socket_is_gone_after_a_stop(tmp_path: Path) -> None:
    path = tmp_path / "vault"
    with opened(settings(f"unix:{path}")):
        assert path.is_socket()
    assert not path.exists()
    # Unless it is another's by then.
    with opened(settings(f"unix:{path}")), ExitStack() as stack:
        path.unlink()
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(str(path))
    assert path.is_socket()


# ── the queue ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("queue", [5, 77])
async def test_queue_of_a_handed_over_socket_is_kept(manager: ServiceManager, queue: int) -> None:
    manager.listen(queue)
    with opened(settings(), manager.environ()) as made:
        async with served(made) as address:
            assert await exchange(address) == b"hello"
            assert queue_length(manager.kept[0]) == queue


async def test_queue_of_our_own_socket_is_long() -> None:
    with opened(settings("127.0.0.1:0")) as made:
        async with served(made):
            assert queue_length(made.vault[0]) == min(1024, LONGEST_QUEUE)
