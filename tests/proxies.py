"""nginx and HAProxy in front of a daemon, configured as docs/how-to/behind-a-proxy.md says."""

import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import TypeAlias

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from custody.development.postgres import cluster
from custody.development.postgres.user import ServerUser, choose_user
from tests.certificates import make_certificate
from tests.db.embedded_server import open_folder
from tests.eventually import soon
from tests.ports import free_port
from tests.servers import log_file
from tests.systemd.howto import sections

PAGE = "behind-a-proxy"
HOST = "vault.example.org"
KINDS = ("nginx", "haproxy")
TITLES = {"nginx": "nginx", "haproxy": "HAProxy"}

# What stands around the page's block on a host: Debian's own files, there.
_NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
{paths}
{block}
}}
"""
_HAPROXY = """
global
    log stdout format raw daemon
    nbthread 1
{block}
"""
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_DAEMON = "127.0.0.1:3001"

# What is changed in a block: a text that must be there, and what takes its place.
Changes: TypeAlias = Mapping[str, str]


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs.

    Args:
        kind: nginx or haproxy.
        port: of its TLS on 127.0.0.1, and on ::1 where the host has that.
        certificate: whom clients must trust.
        logs: where it writes.
    """

    kind: str
    port: int
    certificate: Path
    logs: tuple[Path, ...]

    @property
    def origin(self) -> str:
        """How clients write it; see :func:`visiting`."""
        return f"https://{HOST}:{self.port}"

    def log(self) -> str:
        """Return all that it has logged."""
        return "".join(path.read_text("utf-8", "replace") for path in self.logs if path.exists())

    def tls(self, *protocols: str) -> ssl.SSLContext:
        """Return a client's context, which offers these protocols."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.set_alpn_protocols(list(protocols or ("http/1.1",)))
        return context


def binary(kind: str) -> str:
    """Return the path of a proxy's program; where there is none, the test is skipped."""
    found = shutil.which(kind, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        lacking = pytest.fail if os.environ.get("CI") else pytest.skip
        lacking(f"{kind} is not installed: apt-get install {kind}")
    return found


def page(title: str, language: str) -> str:
    """Return the first block in a language of a section of the page."""
    return sections(PAGE, language)[title][0]


def changed(text: str, changes: Changes) -> str:
    """Change a block, each text wherever it is; one that is not there fails the test."""
    for old, new in changes.items():
        assert old in text, f"{PAGE}.md has no {old}"
        text = text.replace(old, new)
    return text


@contextmanager
def proxy(kind: str, daemon: str, changes: Changes | None = None) -> Iterator[Proxy]:
    """Run a proxy for the length of the block, as an ordinary user.

    Args:
        kind: nginx or haproxy.
        daemon: the address behind it.
        changes: to its configuration, beside addresses and paths.
    """
    user, port, log = choose_user(), free_port(), log_file(kind)
    program = binary(kind)
    with open_folder() as folder:
        cert, key = make_certificate(folder / "tls", HOST)
        start = {"nginx": _nginx, "haproxy": _haproxy}[kind]
        block = changed(page(TITLES[kind], kind), changes or {})
        # The longer ones first: one is the end of the other.
        listen = {"0.0.0.0:443": f"127.0.0.1:{port}", "[::]:443": f"[::1]:{port}"}
        listen |= {"listen 443": f"listen 127.0.0.1:{port}"}
        for old, new in listen.items():
            block = block.replace(old, new)
        block = _only_here(block)
        block = block if _DAEMON not in block else changed(block, {_DAEMON: daemon})
        arguments, own_log = start(user, folder, block, (cert, key))
        with log.open("wb") as output:
            process = user.spawn([program, *arguments], stdin=DEVNULL, output=output.fileno())
        try:
            soon(lambda: _answers(port, log))
            yield Proxy(kind, port, cert, (log, own_log))
        finally:
            process.terminate()
            process.wait()
            if own_log.exists():
                # Where the search for secrets looks.
                shutil.copy(own_log, log_file(kind))


def _only_here(block: str) -> str:
    """Leave out what listens on IPv6, where the host has none."""
    if has_ipv6():
        return block
    return "\n".join(line for line in block.splitlines() if "[::1]:" not in line) + "\n"


def has_ipv6() -> bool:
    """Say whether this host has ::1."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _nginx(
    user: ServerUser, folder: Path, block: str, tls: tuple[Path, Path]
) -> tuple[list[str], Path]:
    own = folder / "nginx"
    own.mkdir()
    descriptor = os.open(own, os.O_RDONLY)
    user.own(descriptor)
    os.close(descriptor)
    cert, key = tls
    placed = {
        "/etc/ssl/custody/fullchain.pem": str(cert),
        "/etc/ssl/custody/key.pem": str(folder / "key"),
        "/var/log/nginx/custody.log": str(own / "log"),
        "/var/log/nginx/custody-error.log": "stderr",
    }
    cluster.write_private(folder / "key", key.read_text(), user)
    paths = "\n".join(f"{name}_temp_path {own}/{name};" for name in _TEMPORARY)
    text = _NGINX.format(folder=own, paths=paths, block=changed(block, placed))
    cluster.write_private(folder / "conf", text, user)
    return ["-c", f"{folder}/conf"], own / "log"


def _haproxy(
    user: ServerUser, folder: Path, block: str, tls: tuple[Path, Path]
) -> tuple[list[str], Path]:
    placed = {"/etc/haproxy/custody.pem": str(folder / "pem")}
    cluster.write_private(folder / "pem", "".join(path.read_text() for path in tls), user)
    cluster.write_private(folder / "cfg", _HAPROXY.format(block=changed(block, placed)), user)
    # It logs to its standard output alone.
    return ["-db", "-f", f"{folder}/cfg"], folder / "none"


def _answers(port: int, log: Path) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError as error:
        raise AssertionError(f"the proxy does not answer: {log.read_text()}") from error
    return True


class _Here(AbstractResolver):
    """Finds the proxy's host name on loopback."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        six = ":" in self._address
        found = ResolveResult(
            hostname=host,
            host=self._address,
            port=port,
            family=socket.AF_INET6 if six else socket.AF_INET,
            proto=0,
            flags=socket.AI_NUMERICHOST,
        )
        return [found]

    async def close(self) -> None:
        """There is nothing to close."""


@asynccontextmanager
async def visiting(at: Proxy, address: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session of a client that has an address of its own, in 127.0.0.0/8 or ::1."""
    to = "::1" if ":" in address else "127.0.0.1"
    connector = aiohttp.TCPConnector(
        limit=0, ssl=at.tls(), resolver=_Here(to), local_addr=(address, 0)
    )
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield session


def addresses() -> Callable[[], str]:
    """Return what gives a new client's address at each call: limits are per address."""
    given = (f"127.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in range(0x010001, 0xFFFFFF))
    return lambda: next(given)
