"""Certificates for servers of tests."""

import ipaddress
import subprocess
from collections.abc import Sequence
from pathlib import Path

# Browsers take no Ed25519, and libpq of PostgreSQL 15 can't bind a login to it.
P256 = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")


def make_certificate(
    folder: Path, host: str = "127.0.0.1", *, kind: Sequence[str] = ("ed25519",)
) -> tuple[Path, Path]:
    """Make a certificate for a host that signs itself; return its file, and that of its key.

    Args:
        folder: where; it is made.
        host: a name or an address.
        kind: of its key, as openssl takes it.
    """
    folder.mkdir(exist_ok=True)
    cert, key = folder / "cert.pem", folder / "key.pem"
    try:
        name = f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        name = f"DNS:{host}"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "1", "-newkey", *kind]
    command += ["-subj", f"/CN={host}", "-addext", f"subjectAltName={name}"]
    command += ["-out", str(cert), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key
