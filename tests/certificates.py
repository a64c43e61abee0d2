"""Certificates for servers of tests."""

import ipaddress
import subprocess
from pathlib import Path

ED25519 = ("ed25519",)
# What libpq of PostgreSQL 15 can bind a login to; to Ed25519 it can't.
P256 = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")


def make_certificate(
    folder: Path, host: str = "127.0.0.1", key_of: tuple[str, ...] = ED25519
) -> tuple[Path, Path]:
    """Make a certificate for a host that signs itself; return its file, and that of its key."""
    folder.mkdir(exist_ok=True)
    cert, key = folder / "cert.pem", folder / "key.pem"
    try:
        name = f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        name = f"DNS:{host}"
    command = ["openssl", "req", "-x509", "-newkey", *key_of, "-nodes", "-days", "1"]
    command += ["-subj", f"/CN={host}", "-addext", f"subjectAltName={name}"]
    command += ["-out", str(cert), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key
