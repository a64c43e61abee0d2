"""TLS to the database: its modes, what is refused, and why."""

import asyncio
import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.db.connecting import outcome, pass_on, serving
from tests.servers import Database

SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@dataclass
class TlsFront:
    """What speaks TLS before a server: the build of the tests has none.

    Args:
        port: where it listens, as localhost.
        direct: where it speaks TLS at once.
        ca: the certificate, which signs itself.
        other: another one.
        context: how it speaks TLS.
        protected: whether the latest connection was.
        protocol: what was agreed on in the handshake of the latest one.
    """

    port: int
    direct: int
    ca: Path
    other: Path
    context: ssl.SSLContext
    protected: bool | None = None
    protocol: str | None = None

    def url(self, database: Database) -> str:
        """Return the URL of custody_app by way of the front."""
        plain = database.url("custody_app")
        return plain.replace(f"127.0.0.1:{database.server.port}", f"localhost:{self.port}")


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
    context.set_alpn_protocols(["postgresql"])

    async def ask_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(8)
        made.protected = first == SSL_REQUEST
        if made.protected:
            writer.write(b"S")
            await writer.start_tls(context)
            first = b""
        await pass_on(database.server.port, reader, writer, first)

    async def at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await writer.start_tls(context)
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        made.protected, made.protocol = True, tls.selected_alpn_protocol()
        await pass_on(database.server.port, reader, writer)

    async with serving(ask_first) as port, serving(at_once) as direct:
        made = TlsFront(port, direct, cert, other, context)
        yield made


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


async def test_tls_at_once(front: TlsFront, database: Database) -> None:
    url = front.url(database).replace(f":{front.port}/", f":{front.direct}/")
    told = await outcome(f"{url}?sslnegotiation=direct&sslmode=verify-full&sslrootcert={front.ca}")
    assert told == str(database.server.port)
    # PostgreSQL 17 takes no other.
    assert front.protocol == "postgresql"


async def test_an_address_that_is_given_is_held_against_the_name(
    front: TlsFront, database: Database
) -> None:
    strict = f"sslmode=verify-full&sslrootcert={front.ca}"
    url = front.url(database)
    assert await outcome(f"{url}?hostaddr=127.0.0.1&{strict}") == str(database.server.port)
    other = url.replace("localhost", "other.invalid")
    told = await outcome(f"{other}?hostaddr=127.0.0.1&{strict}")
    assert "not valid for 'other.invalid'" in told


@dataclass
class Strict:
    """Agrees on TLS as PostgreSQL does, with OpenSSL's own alerts, and goes no further.

    Args:
        port: where it listens.
        tried: for each connection, whether it was to be protected.
    """

    port: int
    tried: list[bool]


@pytest.fixture
def strict(front: TlsFront) -> Iterator[Strict]:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            client, _ = listener.accept()
            with client, contextlib.suppress(OSError):
                first = client.recv(8)
                if not first:
                    return
                made.tried.append(first == SSL_REQUEST)
                if made.tried[-1]:
                    client.sendall(b"S")
                    front.context.wrap_socket(client, server_side=True).close()

    made = Strict(listener.getsockname()[1], [])
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield made
    socket.create_connection(("127.0.0.1", made.port)).close()
    thread.join(10)
    listener.close()


async def test_no_version_of_tls_in_common(strict: Strict, front: TlsFront) -> None:
    front.context.maximum_version = ssl.TLSVersion.TLSv1_2
    url = f"postgresql://role@localhost:{strict.port}/d?ssl_min_protocol_version=TLSv1.3"
    told = await outcome(f"{url}&sslmode=require")
    assert told.startswith(f"refused: CUSTODY_DATABASE_URL: localhost:{strict.port}: TLS is not")
    assert "protocol version" in told
    assert strict.tried == [True]
    # As libpq has it, prefer goes on without.
    assert (await outcome(url)).startswith("down: ")
    assert strict.tried == [True, True, False]


async def test_no_certificate_where_the_server_wants_one(strict: Strict, front: TlsFront) -> None:
    front.context.verify_mode = ssl.CERT_REQUIRED
    front.context.maximum_version = ssl.TLSVersion.TLSv1_2
    told = await outcome(f"postgresql://role@localhost:{strict.port}/d?sslmode=require")
    assert told.startswith("refused: ")
    assert "sslcert" in told


async def test_our_own_certificate(front: TlsFront, database: Database) -> None:
    front.context.verify_mode = ssl.CERT_REQUIRED
    front.context.load_verify_locations(front.other)
    url = f"{front.url(database)}?sslmode=require"
    key = front.other.with_suffix(".key")
    own = f"{url}&sslcert={front.other}&sslkey={key}"
    assert await outcome(own) == str(database.server.port)
    for of_key, reason in (
        (Path("/no/such"), "the key in /no/such: No such file"),
        (front.ca.with_suffix(".key"), "not a pair"),
    ):
        told = await outcome(f"{url}&sslcert={front.other}&sslkey={of_key}")
        assert told.startswith("refused: ")
        assert reason in told


async def test_files_of_home_as_libpq_has_them(
    front: TlsFront, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".postgresql").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    url = f"{front.url(database)}?sslmode=verify-full"
    assert "needs the certificate of the CA" in await outcome(url)
    root = home / ".postgresql/root.crt"
    root.write_bytes(front.ca.read_bytes())
    assert await outcome(url) == str(database.server.port)
    # With a list of revoked certificates, one that says nothing of this CA is not enough.
    root.with_suffix(".crl").write_bytes(revoked(front.other))
    assert "unable to get certificate CRL" in await outcome(url)
    root.with_suffix(".crl").write_bytes(revoked(front.ca))
    assert "certificate revoked" in await outcome(url)


def revoked(ca: Path) -> bytes:
    """Make a list of a CA that revokes the CA itself."""
    cert = x509.load_pem_x509_certificate(ca.read_bytes())
    key = serialization.load_pem_private_key(ca.with_suffix(".key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.datetime.now(datetime.UTC)
    entry = x509.RevokedCertificateBuilder().serial_number(cert.serial_number)
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(cert.subject)
        .last_update(now - datetime.timedelta(days=1))
        .next_update(now + datetime.timedelta(days=1))
        .add_revoked_certificate(entry.revocation_date(now).build())
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


async def test_an_end_in_the_middle_of_the_handshake_may_pass() -> None:
    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == SSL_REQUEST
        writer.write(b"S")
        await reader.readexactly(1)

    async with serving(end) as port:
        told = await outcome(f"postgresql://role@127.0.0.1:{port}/d?sslmode=require")
    assert told.startswith("down: CUSTODY_DATABASE_URL: no connection to the database at ")
    assert f"127.0.0.1:{port}: " in told
