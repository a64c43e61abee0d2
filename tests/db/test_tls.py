"""TLS to the database: its modes, what is refused, and why."""

import contextlib
import socketserver
import ssl
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.certificates import make_certificate
from tests.db.connecting import outcome, pass_on, serving
from tests.servers import Database

SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@dataclass
class TlsFront:
    """What speaks TLS before a server: the build of the tests has none.

    Args:
        folder: of certificates that sign themselves, and their keys: its own, and another.
        port: where it listens, as localhost.
        direct: where it speaks TLS at once.
        protected: whether the latest connection was.
        protocol: what was agreed on in the handshake of the latest one.
    """

    folder: Path
    port: int = 0
    direct: int = 0
    protected: bool | None = None
    protocol: str | None = None

    def __post_init__(self) -> None:
        (self.folder / "other").mkdir()
        self.ca, self.key = make_certificate(self.folder, "localhost")
        self.other, self.other_key = make_certificate(self.folder / "other", "other.invalid")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.ca, self.key)
        self.context.set_alpn_protocols(["postgresql"])

    def url(self, database: Database) -> str:
        """Return the URL of custody_app by way of the front."""
        plain = database.url("custody_app")
        return plain.replace(f"127.0.0.1:{database.server.port}", f"localhost:{self.port}")


@pytest.fixture
async def front(database: Database, tmp_path: Path) -> AsyncIterator[TlsFront]:
    made = TlsFront(tmp_path)

    async def pass_all(at_once: bool, reader: StreamReader, writer: StreamWriter) -> None:
        first = SSL_REQUEST if at_once else await reader.readexactly(8)
        made.protected = first == SSL_REQUEST
        if made.protected:
            writer.write(b"" if at_once else b"S")
            await writer.start_tls(made.context)
            tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
            made.protocol, first = tls.selected_alpn_protocol(), b""
        await pass_on(database.server.port, reader, writer, first)

    async with (
        serving(partial(pass_all, False)) as made.port,
        serving(partial(pass_all, True)) as made.direct,
    ):
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
    files = {"ca": front.ca, "other": front.other, "key": front.key}
    told = await outcome(url + parameters.format(**files))
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


@pytest.fixture
def strict(front: TlsFront) -> Iterator[tuple[int, list[bool]]]:
    """What agrees on TLS as PostgreSQL does, with OpenSSL's own alerts, and goes no further.

    Yields:
        Its port, and for each connection whether it was to be protected.
    """
    tried: list[bool] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            tried.append(self.request.recv(8) == SSL_REQUEST)
            if tried[-1]:
                self.request.sendall(b"S")
                with contextlib.suppress(OSError):
                    front.context.wrap_socket(self.request, server_side=True).close()

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1], tried
        server.shutdown()
        thread.join()


async def test_no_version_of_tls_in_common(strict: tuple[int, list[bool]], front: TlsFront) -> None:
    port, tried = strict
    front.context.maximum_version = ssl.TLSVersion.TLSv1_2
    url = f"postgresql://role@localhost:{port}/d?ssl_min_protocol_version=TLSv1.3"
    told = await outcome(f"{url}&sslmode=require")
    assert told.startswith(f"refused: CUSTODY_DATABASE_URL: localhost:{port}: TLS is not")
    assert "protocol version" in told
    assert tried == [True]
    # As libpq has it, prefer goes on without.
    assert (await outcome(url)).startswith("down: ")
    assert tried == [True, True, False]


async def test_no_certificate_where_the_server_wants_one(
    strict: tuple[int, list[bool]], front: TlsFront
) -> None:
    port, _ = strict
    front.context.verify_mode = ssl.CERT_REQUIRED
    front.context.maximum_version = ssl.TLSVersion.TLSv1_2
    told = await outcome(f"postgresql://role@localhost:{port}/d?sslmode=require")
    assert told.startswith("refused: ")
    assert "sslcert" in told


async def test_our_own_certificate(front: TlsFront, database: Database) -> None:
    front.context.verify_mode = ssl.CERT_REQUIRED
    front.context.load_verify_locations(front.other)
    url = f"{front.url(database)}?sslmode=require"
    own = f"{url}&sslcert={front.other}&sslkey={front.other_key}"
    assert await outcome(own) == str(database.server.port)
    for of_key, reason in (
        (Path("/no/such"), "the key in /no/such: No such file"),
        (front.key, "not a pair"),
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
    root.with_suffix(".crl").write_bytes(revoked(front.other, front.other_key))
    assert "unable to get certificate CRL" in await outcome(url)
    root.with_suffix(".crl").write_bytes(revoked(front.ca, front.key))
    assert "certificate revoked" in await outcome(url)


def revoked(ca: Path, ca_key: Path) -> bytes:
    """Make a list of a CA that revokes the CA itself."""
    cert = x509.load_pem_x509_certificate(ca.read_bytes())
    key = serialization.load_pem_private_key(ca_key.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    now = cert.not_valid_before_utc
    entry = x509.RevokedCertificateBuilder().serial_number(cert.serial_number).revocation_date(now)
    made = x509.CertificateRevocationListBuilder().issuer_name(cert.subject).last_update(now)
    made = made.next_update(cert.not_valid_after_utc).add_revoked_certificate(entry.build())
    return made.sign(key, None).public_bytes(serialization.Encoding.PEM)


async def test_an_end_in_the_middle_of_the_handshake_may_pass() -> None:
    async def end(reader: StreamReader, writer: StreamWriter) -> None:
        assert await reader.readexactly(8) == SSL_REQUEST
        writer.write(b"S")
        await reader.readexactly(1)

    async with serving(end) as port:
        told = await outcome(f"postgresql://role@127.0.0.1:{port}/d?sslmode=require")
    assert told.startswith("down: CUSTODY_DATABASE_URL: no connection to the database at ")
    assert f"127.0.0.1:{port}: " in told
