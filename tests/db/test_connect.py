"""Connections: hosts that never answer, TLS that is not right, primaries that change."""

import asyncio
import contextlib
import datetime
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from custody.db.connect import Manner, connect
from custody.db.dsn import Dsn
from custody.db.embedded import EmbeddedPostgres
from custody.db.errors import DatabaseError, Refused
from custody.settings import ConfigurationError
from tests.client import Answer, Client, client_session
from tests.db.command import custody
from tests.db.embedded_server import open_folder
from tests.ports import free_port
from tests.servers import (
    TEMPLATE,
    Database,
    bare_postgres,
    daemon_here,
    make_template,
    settings_for,
    start_on,
)
from tests.tokens import Issuer

MANNER = Manner(5.0, 0)


async def outcome(url: str) -> str:
    """Connect, and return what came of it: the server's port, or the kind of error and its text."""
    try:
        connection = await connect(Dsn(url), MANNER, variable="CUSTODY_DATABASE_URL")
    except Refused as error:
        return f"refused: {error}"
    except DatabaseError as error:
        return f"down: {error}"
    try:
        return str(await connection.fetchval("SELECT inet_server_port()"))
    finally:
        await connection.close()


@pytest.fixture
async def silent() -> AsyncIterator[int]:
    """A port that takes connections and never answers."""

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(wait, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_a_host_that_never_answers_keeps_no_other_from_being_tried(
    database: Database, silent: int
) -> None:
    port = database.server.port
    url = database.url("custody_app").replace(f":{port}/", f":{silent},127.0.0.1:{port}/")
    assert await outcome(url) == str(port)
    alone = database.url("custody_app").replace(f":{port}/", f":{silent}/")
    assert await outcome(f"{alone}?connect_timeout=1") == (
        "down: CUSTODY_DATABASE_URL: no connection to the database at "
        f"127.0.0.1:{silent}: no answer in time"
    )


async def test_a_daemon_boots_past_a_host_that_never_answers(
    database: Database, silent: int, issuer: Issuer, tmp_path: Path
) -> None:
    port = database.server.port
    url = database.url("custody_app").replace(f":{port}/", f":{silent},127.0.0.1:{port}/")
    async with (
        daemon_here(database, issuer, tmp_path, DATABASE_URL=url) as daemon,
        client_session() as session,
    ):
        assert (await Client(daemon, session, "alice").init()).status == 200


async def test_what_is_down_names_the_host_and_the_cause(database: Database) -> None:
    closed, port = free_port(), database.server.port
    url = database.url("custody_app")
    assert (await outcome(url.replace(f":{port}/", f":{closed}/"))).endswith(
        f"127.0.0.1:{closed}: Connection refused"
    )
    unknown = await outcome(url.replace(f"127.0.0.1:{port}/", "no-such-host.invalid:5432/"))
    assert unknown.startswith("down: ")
    assert "no-such-host.invalid:5432: " in unknown


@pytest.mark.parametrize("home", ["/proc/1/nowhere", "", "/dev/null"])
async def test_home_that_can_not_be_read_is_not_needed(
    database: Database, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("HOME", home)
    assert await outcome(database.url("custody_app")) == str(database.server.port)


async def test_parameters_of_providers_do_no_harm(database: Database) -> None:
    url = database.url("custody_app")
    assert await outcome(
        f"{url}?sslmode=prefer&channel_binding=prefer&connect_timeout=10&keepalives=1"
        "&gssencmode=prefer&application_name=a-name&pgbouncer=true"
    ) == str(database.server.port)
    connection = await connect(
        Dsn(f"{url}?application_name=a-name&options=-c%20work_mem%3D1MB"), MANNER, variable="X"
    )
    assert await connection.fetchval("SHOW application_name") == "a-name"
    assert await connection.fetchval("SHOW work_mem") == "1MB"
    await connection.close()


# ── the same in every command ─────────────────────────────────────────────────

COMMANDS = {
    "serve": ("CUSTODY_DATABASE_URL", ("serve",)),
    "doctor": ("CUSTODY_DATABASE_URL", ("doctor",)),
    "kek list": ("CUSTODY_DATABASE_URL", ("kek", "list")),
    "rewrap run": ("CUSTODY_REWRAP_DATABASE_URL", ("rewrap", "run")),
    "rewrap status": ("CUSTODY_REWRAP_DATABASE_URL", ("rewrap", "status")),
    "migrate": ("CUSTODY_OWNER_DATABASE_URL", ("migrate",)),
    "users erase": ("CUSTODY_OWNER_DATABASE_URL", ("users", "erase", "alice", "--yes")),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("old", "new", "cure"),
    [
        (":PORT/", ":99999/", "a port is a number from 1 to 65535"),
        ("@", "x@x@", "percent-encode special characters"),
        ("END", "?channel_binding=require", "channel_binding is not supported"),
        ("END", "?sslmode=verify-full", "needs the certificate of the CA"),
        ("END", "?sslmode=require", "speaks no TLS"),
    ],
    ids=["port", "password", "channel binding", "no root", "no TLS"],
)
async def test_what_can_never_work_ends_every_command_with_its_cure(  # noqa: PLR0917
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
    name: str,
    old: str,
    new: str,
    cure: str,
) -> None:
    variable, words = COMMANDS[name]
    role = {"CUSTODY_DATABASE_URL": "app", "CUSTODY_REWRAP_DATABASE_URL": "rewrap"}
    url = database.url(f"custody_{role.get(variable, 'owner')}") + "END"
    url = url.replace(old.replace("PORT", str(database.server.port)), new, 1).replace("END", "")
    environ = settings_for(database, issuer, tmp_path) | {variable: url, "HOME": str(tmp_path)}
    done = await asyncio.to_thread(custody, environ, *words)
    # The doctor's findings are for people who look: its exit code says that there is one.
    assert done.code == (1 if name == "doctor" else 78), done
    assert cure in done.out + done.err
    assert variable in done.out + done.err
    assert database.url("postgres").split(":")[2].split("@")[0] not in done.out + done.err


async def test_what_is_down_is_named_once(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    closed = free_port()
    for name in ("doctor", "kek list", "rewrap status", "migrate"):
        variable, words = COMMANDS[name]
        url = database.url("custody_app").replace(f":{database.server.port}/", f":{closed}/")
        environ = settings_for(database, issuer, tmp_path) | {variable: url}
        done = await asyncio.to_thread(custody, environ, *words)
        assert done.code == 69, done
        line = (
            f"{variable}: no connection to the database at 127.0.0.1:{closed}: Connection refused"
        )
        assert (done.out + done.err).count(line) == 1
        assert (done.out + done.err).count(variable) == 1


# ── TLS ───────────────────────────────────────────────────────────────────────


@dataclass
class TlsFront:
    """What speaks TLS before a server: the build of the tests has none.

    Args:
        port: where it listens, as localhost.
        ca: the certificate, which signs itself.
        other: another one.
        protected: whether the latest connection was.
    """

    port: int
    ca: Path
    other: Path
    protected: bool | None = None

    def url(self, database: Database) -> str:
        """Return the URL of custody_app by way of the front."""
        plain = database.url("custody_app")
        return plain.replace(f"127.0.0.1:{database.server.port}", f"localhost:{self.port}")


SSL_REQUEST = bytes.fromhex("0000000804d2162f")


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate that signs itself, for localhost; return it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    pem = serialization.Encoding.PEM
    paths[0].write_bytes(made.public_bytes(pem))
    paths[1].write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


@pytest.fixture
async def front(database: Database, tmp_path: Path) -> AsyncIterator[TlsFront]:
    cert, key = certificate(tmp_path, "server")
    other, _ = certificate(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(8)
        made.protected = first == SSL_REQUEST
        try:
            if made.protected:
                writer.write(b"S")
                await writer.start_tls(context)
                first = b""
            onward = await asyncio.open_connection("127.0.0.1", database.server.port)
        except OSError:  # the client does not like the certificate
            writer.close()
            return
        onward[1].write(first)
        await asyncio.gather(copy(reader, onward[1]), copy(onward[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made = TlsFront(server.sockets[0].getsockname()[1], cert, other)
    yield made
    server.close()


@pytest.mark.parametrize(
    ("parameters", "protected"),
    [
        ("", True),
        ("?sslmode=prefer", True),
        ("?sslmode=allow", False),
        ("?sslmode=disable", False),
        ("?sslmode=require", True),
        ("?sslmode=require&sslrootcert={ca}", True),
        ("?sslmode=verify-ca&sslrootcert={ca}", True),
        ("?sslmode=verify-full&sslrootcert={ca}", True),
        ("?sslmode=verify-full&sslrootcert={ca}&ssl_min_protocol_version=TLSv1.3", True),
    ],
)
async def test_modes_of_tls(
    front: TlsFront, database: Database, parameters: str, protected: bool
) -> None:
    url = front.url(database) + parameters.format(ca=front.ca)
    assert await outcome(url) == str(database.server.port)
    assert front.protected is protected


@pytest.mark.parametrize(
    ("change", "parameters", "reason"),
    [
        ("", "?sslmode=verify-full&sslrootcert={other}", "its certificate is not accepted"),
        ("", "?sslmode=require&sslrootcert={other}", "its certificate is not accepted"),
        ("", "?sslrootcert=system", "self-signed certificate"),
        ("127.0.0.1", "?sslmode=verify-full&sslrootcert={ca}", "not valid for '127.0.0.1'"),
        ("", "?sslmode=verify-full&sslrootcert=/no/such", "sslrootcert names /no/such: No such"),
        ("", "?sslmode=verify-full&sslrootcert={key}", "not such a PEM file"),
    ],
    ids=["untrusted", "untrusted, require", "system", "wrong name", "no file", "no certificate"],
)
async def test_certificate_that_is_refused_says_why(
    front: TlsFront, database: Database, change: str, parameters: str, reason: str
) -> None:
    url = front.url(database).replace("localhost", change or "localhost")
    key = front.ca.with_suffix(".key")
    told = await outcome(url + parameters.format(ca=front.ca, other=front.other, key=key))
    assert told.startswith("refused: CUSTODY_DATABASE_URL: "), told
    assert reason in told


# ── failover ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Pair:
    """Two servers with the same data: one takes writes, the other does not."""

    first: EmbeddedPostgres
    second: EmbeddedPostgres
    url: Callable[[str], str]

    async def demote_first(self) -> None:
        """What a failover does: sessions on the old primary live on, read-only."""
        await read_only(self.first, True)
        await read_only(self.second, False)


async def read_only(server: EmbeddedPostgres, on: bool) -> None:
    connection = await asyncpg.connect(server.url("postgres", "postgres"))
    await connection.execute("SET default_transaction_read_only = off")
    await connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {on}")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    with open_folder() as folder, bare_postgres(folder / "first", durable=False) as first:
        await make_template(first)
        await asyncio.to_thread(first.grant_logins)
        port = first.port
        first.stop()
        shutil.copytree(folder / "first", folder / "second", symlinks=True)
        for path in (folder / "first").rglob("*"):
            owner = path.lstat()
            os.lchown(folder / "second" / path.relative_to(folder / "first"), *owner_of(owner))
        start_on(first, port)
        with bare_postgres(folder / "second", durable=False) as second:
            await read_only(second, True)
            hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"

            def url(role: str) -> str:
                alone = first.url(role, TEMPLATE)
                both = alone.replace(f"127.0.0.1:{first.port}", hosts)
                return f"{both}?target_session_attrs=read-write"

            yield Pair(first, second, url)


def owner_of(found: os.stat_result) -> tuple[int, int]:
    return found.st_uid, found.st_gid


async def once_served(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask until it is answered; what comes before is 503."""
    async with asyncio.timeout(30):
        while True:
            answer = await call()
            if answer.status == 200:
                return answer
            assert answer.status == 503
            await asyncio.sleep(0.02)


async def test_after_a_failover_requests_reach_the_new_primary_without_a_restart(
    pair: Pair, issuer: Issuer, tmp_path: Path
) -> None:
    database = Database(pair.first, TEMPLATE)
    async with (
        daemon_here(database, issuer, tmp_path, DATABASE_URL=pair.url("custody_app")) as daemon,
        client_session() as session,
    ):
        alice, bob = Client(daemon, session, "alice"), Client(daemon, session, "bob")
        assert {(await alice.init()).status for _ in range(4)} == {200}
        await asyncio.gather(*(Client(daemon, session, f"u{n}").init() for n in range(20)))
        await pair.demote_first()
        key = (await once_served(bob.init)).json["masterKey"]
        await once_served(bob.key)
        answers = await asyncio.gather(*(bob.key() for _ in range(20)))
        assert {one.json.get("masterKey") for one in answers} == {key}
        assert (await bob.rotate()).status == 200
    there = Database(pair.second, TEMPLATE)
    assert ("rotate", None, 200) in await there.audit("bob")


def test_no_error_of_ssl_is_a_passing_one() -> None:
    """The order of the except clauses counts: a refused certificate is an OSError, too."""
    assert issubclass(ssl.SSLCertVerificationError, OSError)


async def test_the_daemon_does_not_start_with_such_a_url(
    database: Database, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    url = f"{database.url('custody_app')}?sslmode=verify-full"
    with pytest.raises(ConfigurationError, match="needs the certificate of the CA"):
        async with daemon_here(database, issuer, tmp_path, DATABASE_URL=url):
            pass
