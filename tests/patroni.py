"""A PostgreSQL of three servers under Patroni, with three etcd, and HAProxy before it.

All are configured as docs/how-to/high-availability.md says, on ports of loopback, and run as an
ordinary user. One folder holds everything; nothing that Debian has set up itself is touched.
"""

import base64
import json
import os
import re
import secrets
import shutil
import signal
import socket
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import pytest

from custody.development.postgres import EmbeddedPostgres, cluster
from custody.development.postgres.user import ServerUser, choose_user
from tests.certificates import P256, make_certificate
from tests.db.embedded_server import open_folder
from tests.eventually import soon
from tests.leaks import remember
from tests.ports import free_port
from tests.servers import Database, log_file
from tests.systemd.howto import sections

PAGE = "high-availability"
NAMES = ("db1", "db2", "db3")
# Those that the tests have, so that a failover takes seconds; the page's are for networks.
QUICK = {
    "ttl: 20": "ttl: 7",
    "loop_wait: 5": "loop_wait: 1",
    "retry_timeout: 5": "retry_timeout: 3",
}

_DEBIAN = Path("/usr/lib/postgresql/15/bin")
_PLACE = re.compile(r"\b(10\.0\.0\.[123]|127\.0\.0\.1):([0-9]+)")
_CHECKED = re.compile(r"(10\.0\.0\.[123])(:5432 .*check port) ([0-9]+)")
_START_SECONDS = 60


def block(title: str, language: str) -> str:
    """Return the first block in a language of a section of the page."""
    return sections(PAGE, language)[title][0]


def program(name: str, package: str) -> str:
    """Return the path of a program; where there is none, the test is skipped."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:{_DEBIAN}")
    if found is None:
        lacking = pytest.fail if os.environ.get("CI") else pytest.skip
        lacking(f"{name} is not installed: apt-get install {package}")
    return found


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """Change a block of the page, each text wherever it is; one that is not there is a failure."""
    for old, new in changes.items():
        assert old in text, f"{PAGE}.md has no {old}"
        text = text.replace(old, new)
    return text


@dataclass
class Ports:
    """Ports here in place of addresses of the page."""

    given: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(free_port))

    def of(self, number: int, port: int) -> int:
        """Return the port that stands for one of the host ``10.0.0.NUMBER``."""
        return self.given[f"10.0.0.{number}", port]

    def here(self, text: str) -> str:
        """Move a block of the page here."""
        text = _CHECKED.sub(lambda at: f"{at[1]}{at[2]} {self.given[at[1], int(at[3])]}", text)
        return _PLACE.sub(lambda at: f"127.0.0.1:{self.given[at[1], int(at[2])]}", text)


@dataclass
class Member:
    """One server: its Patroni, and the PostgreSQL that this starts.

    Args:
        number: 1 to 3.
        name: in the cluster.
        folder: its own.
        port: of its PostgreSQL.
        api: of its Patroni.
        patroni: while it runs.
    """

    number: int
    name: str
    folder: Path
    port: int
    api: int
    patroni: "Popen[bytes] | None" = None

    def pids(self) -> list[int]:
        """Return the postmaster and its children, as far as they are there."""
        with suppress(OSError, ValueError, IndexError):
            first = int((self.folder / "data/postmaster.pid").read_text().split()[0])
            if "postgres" in Path(f"/proc/{first}/comm").read_text():
                children = Path(f"/proc/{first}/task/{first}/children").read_text()
                return [first, *map(int, children.split())]
        return []

    def signal(self, number: int, *, patroni: bool = True, postgres: bool = True) -> None:
        """Send a signal to its Patroni, its PostgreSQL with all sessions, or both."""
        pids = [self.patroni.pid] if patroni and self.patroni else []
        for pid in [*pids, *(self.pids() if postgres else [])]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def freeze(self) -> None:
        """Stop both; SIGCONT has them go on."""
        self.signal(signal.SIGSTOP)
        # Sessions that began meanwhile.
        self.signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End both, as a machine that is switched off."""
        self.signal(signal.SIGKILL)
        if self.patroni:
            self.patroni.wait()
        self.patroni = None


class _Leader(EmbeddedPostgres):
    """Whoever is the primary, in the form that tests know a server in."""

    def __init__(self, cluster: "Cluster", passwords: dict[str, str]) -> None:
        super().__init__(cluster.folder)
        self._cluster, self._passwords, self._bin = cluster, passwords, _DEBIAN

    @property
    def port(self) -> int:
        """Its TCP port; asks the cluster."""
        return self._cluster.leader().port


@dataclass
class Cluster:
    """Three servers and their etcd.

    Args:
        folder: of everything.
        ports: where things are.
        passwords: by role.
        api: password of the API of Patroni.
        user: as whom all of it runs.
        changes: to the page's configuration of Patroni.
    """

    folder: Path
    user: ServerUser
    changes: Mapping[str, str]
    ports: Ports = field(default_factory=Ports)
    passwords: dict[str, str] = field(
        default_factory=lambda: {
            role: remember(secrets.token_urlsafe(24)) for role in (*cluster.ROLES, "replicator")
        }
    )
    api: str = field(default_factory=lambda: remember(secrets.token_urlsafe(24)))
    members: list[Member] = field(default_factory=list)
    etcd: "list[Popen[bytes] | None]" = field(default_factory=lambda: [None, None, None])

    @property
    def database(self) -> Database:
        """The database of the service, at whoever is the primary when it is asked."""
        return Database(_Leader(self, self.passwords), "custody")

    def url(self, role: str = "custody_app") -> str:
        """Return the URL with three hosts that the page has."""
        return self._url("By a URL with three hosts", role)

    def url_by_haproxy(self, role: str = "custody_app") -> str:
        """Return the URL that the page has for HAProxy."""
        return self._url("Through HAProxy", role)

    def _url(self, title: str, role: str) -> str:
        found = re.search(r"'(postgresql:.*)'", block(title, "sh"))
        assert found
        given = {"custody_app:PASSWORD": f"{role}:{self.passwords[role]}"}
        return self.ports.here(replaced(found[1], given))

    # ── what it is ────────────────────────────────────────────────────────────

    def ask(self, member: Member, path: str, body: object = None) -> tuple[int, Any]:
        """Ask the API of a member; a body changes something."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{member.api}{path}", data)
        word = base64.b64encode(f"patroni:{self.api}".encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
        try:
            # Patroni answers when a switchover is done.
            with urllib.request.urlopen(request, timeout=2 if data is None else 60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def roles(self) -> dict[str, str]:
        """Return the role of each member that is well, as one that can be asked has it."""
        for member in self.members:
            with suppress(OSError, ValueError):
                said = json.loads(self.ask(member, "/cluster")[1])["members"]
                timelines = {one.get("timeline") for one in said if one["role"] == "leader"}
                return {
                    one["name"]: one["role"]
                    for one in said
                    if one["state"] in {"running", "streaming"} and one.get("timeline") in timelines
                }
        return {}

    def leader(self) -> Member:
        """Return the primary; waits for one."""
        return soon(lambda: [one for one in self.members if self.leads(one)], 90)[0]

    def leads(self, member: Member) -> bool:
        """Say whether a member's Patroni says that it is the primary."""
        with suppress(OSError):
            return self.ask(member, "/primary")[0] == 200
        return False

    def is_whole(self) -> bool:
        """Say whether there are a primary, a synchronous standby and another one."""
        return sorted(self.roles().values()) == ["leader", "replica", "sync_standby"]

    # ── what happens to it ────────────────────────────────────────────────────

    def switch_over(self) -> None:
        """Have the synchronous standby take over, as planned."""
        leader = self.leader()
        status, said = self.ask(leader, "/switchover", {"leader": leader.name})
        assert status == 200, said

    def start_etcd(self, number: int) -> None:
        """Start one of the three (0 to 2)."""
        here, name = self.folder / f"etcd{number}", NAMES[number]
        lines = _of_host(block("etcd", "sh"), number)
        lines = self.ports.here(replaced(lines, {"/var/lib/etcd/custody": str(here)}))
        command = ["/usr/bin/env", *lines.split(), program("etcd", "etcd-server")]
        self.etcd[number] = self._start(f"etcd-{name}", command)

    def start(self, member: Member) -> None:
        """Start a member's Patroni, which starts its PostgreSQL."""
        # Another one than Debian's, where that is chosen.
        chosen = os.environ.get("PATRONI")
        command = [chosen or program("patroni", "patroni"), str(member.folder / "patroni.yml")]
        member.patroni = self._start(f"patroni-{member.name}", command)

    def _start(self, name: str, command: list[str]) -> "Popen[bytes]":
        with log_file(name).open("wb") as output:
            return self.user.spawn(command, stdin=DEVNULL, output=output.fileno())

    def add(self, number: int, tls: tuple[Path, Path]) -> Member:
        """Write a member's configuration."""
        name = NAMES[number - 1]
        folder = _owned(self.folder / name, self.user)
        text = _of_host(block("Patroni", "yaml"), number - 1)
        given = {
            "PASSWORD-OF-THE-API": self.api,
            "PASSWORD-OF-POSTGRES": self.passwords["postgres"],
            "PASSWORD-OF-REPLICATOR": self.passwords["replicator"],
            "/var/lib/postgresql/15/custody": str(folder / "data"),
            "/run/postgresql": str(folder),
            "/var/lib/postgresql/custody.pgpass": str(folder / "pgpass"),
            "/etc/ssl/custody/db.pem": str(folder / "db.pem"),
            "/etc/ssl/custody/db.key": str(folder / "db.key"),
            # All of them are here, and the superuser of the tests is not the operating system's.
            "10.0.0.0/24": "127.0.0.1/32",
            "local all postgres peer": "local all postgres scram-sha-256",
        }
        for path, content in zip(("db.pem", "db.key"), tls, strict=True):
            cluster.write_private(folder / path, content.read_text(), self.user)
        text = self.ports.here(replaced(text, given | dict(self.changes)))
        cluster.write_private(folder / "patroni.yml", text, self.user)
        made = Member(
            number, name, folder, self.ports.of(number, 5432), self.ports.of(number, 8008)
        )
        self.members.append(made)
        return made

    def stop(self) -> None:
        """End everything, without ado."""
        for member in self.members:
            member.signal(signal.SIGCONT)
            member.kill()
        for process in filter(None, self.etcd):
            process.kill()
            process.wait()


def _of_host(text: str, number: int) -> str:
    """Make of a block of the first host that of another: what has one address alone is its own."""
    name = NAMES[number]
    text = re.sub(r"(?m)^(ETCD_NAME=|name: )db1$", rf"\g<1>{name}", text)
    return re.sub(
        r"(?m)^([^\n,]*)\b10\.0\.0\.1:([0-9]+)$", rf"\g<1>10.0.0.{number + 1}:\g<2>", text
    )


def _owned(folder: Path, user: ServerUser) -> Path:
    folder.mkdir(mode=0o700)
    if user.uid is not None and user.gid is not None:
        os.chown(folder, user.uid, user.gid)
    return folder


@contextmanager
def patroni_cluster(changes: Mapping[str, str]) -> Iterator[Cluster]:
    """Run three servers with their etcd for the length of the block, without a database yet.

    Args:
        changes: to the page's configuration of Patroni, beside addresses, paths and passwords.
    """
    for name, package in (("etcd", "etcd-server"), ("patroni", "patroni")):
        program(name, package)
    assert _DEBIAN.exists(), "apt-get install postgresql"
    with open_folder() as folder:
        made = Cluster(folder, choose_user(), changes)
        tls = make_certificate(folder / "tls", kind=P256)
        try:
            for number in range(len(NAMES)):
                _owned(folder / f"etcd{number}", made.user)
                made.start_etcd(number)
            for number in range(1, len(NAMES) + 1):
                made.start(made.add(number, tls))
            soon(made.is_whole, _START_SECONDS, 0.2)
            yield made
        finally:
            made.stop()


@contextmanager
def haproxy_before(made: Cluster) -> Iterator[None]:
    """Run the page's HAProxy for the length of the block."""
    text = "global\n    log stdout format raw daemon\n" + made.ports.here(
        block("Through HAProxy", "haproxy")
    )
    cluster.write_private(made.folder / "haproxy.cfg", text, made.user)
    command = [program("haproxy", "haproxy"), "-db", "-f", str(made.folder / "haproxy.cfg")]
    process = made._start("haproxy", command)
    try:
        soon(lambda: _answers(made.ports.given["127.0.0.1", 5432]))
        yield
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError as error:
        raise AssertionError("it does not answer yet") from error
    return True
