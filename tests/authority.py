"""A certificate authority for tests: servers and clients that trust each other, or do not."""

import datetime
import ipaddress
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its key, in PEM."""

    cert: Path
    key: Path

    def replace_by(self, other: "Pair") -> None:
        """Have others' files under these names, the key first, as a renewal does."""
        for mine, new in ((self.key, other.key), (self.cert, other.cert)):
            fresh = mine.with_suffix(".new")
            fresh.write_bytes(new.read_bytes())
            fresh.replace(mine)


@dataclass(frozen=True)
class Authority:
    """An authority, with a folder for what it issues."""

    folder: Path
    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    @classmethod
    def make(cls, folder: Path) -> Self:
        """Make one; its own certificate is ``ca.pem`` in the folder."""
        folder.mkdir(exist_ok=True)
        key = generate_private_key(SECP256R1())
        name = _name(f"authority {secrets.token_hex(4)}")
        builder = _builder(name, name, key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        certificate = builder.sign(key, hashes.SHA256())
        (folder / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        return cls(folder, certificate, key)

    @property
    def ca(self) -> Path:
        """The file that trusts it."""
        return self.folder / "ca.pem"

    def issue(self, name: str, *hosts: str) -> Pair:
        """Issue a certificate for a server or a client.

        Args:
            name: its common name, and that of its files.
            hosts: names and addresses that it is for.
        """
        key = generate_private_key(SECP256R1())
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(_name(name), self.certificate.subject, key).add_extension(
            x509.ExtendedKeyUsage(uses), critical=False
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
            )
        made = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        certificate = builder.sign(self.key, hashes.SHA256())
        made.cert.write_bytes(certificate.public_bytes(Encoding.PEM))
        made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        made.key.chmod(0o600)
        return made


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
