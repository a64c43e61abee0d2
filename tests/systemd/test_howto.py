"""The how-tos, run as they stand, in a system with the PostgreSQL, issuer and ports they name."""

import datetime
import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.leaks import remember
from tests.systemd.conftest import need
from tests.systemd.host import journal_is_searched
from tests.systemd.howto import sections
from tests.systemd.installation import SOURCES, sources
from tests.systemd.throwaway import Bind, System, throwaway
from tests.tokens import Issuer

pytestmark = pytest.mark.timeout(600)

ISSUER = "auth.example.org"
INSTALL, ROTATE = "install-on-debian", "rotate-a-systemd-kek"
INSTALLED = {"custody"}  # by the fixture, with the same commands
ONE_OF_THESE = ("A token of a KMS", "Another address")  # what not every host has
VAULT = "http://127.0.0.1:3001/api/v1/me/encryption-vault"


def missing_packages() -> str | None:
    """Return which packages of the how-to are not here: the system has no way to a mirror."""
    (command,) = sections(INSTALL)["Packages"]
    names = command.split("--yes")[1].split()
    try:
        asked = ["dpkg-query", "--show", "--showformat=${Package} ${Status}\n", *names]
        shown = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    except OSError:
        return "this is no Debian"
    there = {line.split()[0] for line in shown.splitlines() if line.endswith("ok installed")}
    missing = [name for name in names if name not in there]
    return f"packages of the how-to are missing: {' '.join(missing)}" if missing else None


@pytest.fixture
def fresh(installation: tuple[Bind, ...], issuer: Issuer) -> Iterator[System]:
    """A host with the packages of the how-to, and somewhere in its network the issuer."""
    need(missing_packages())
    with (
        throwaway([sources(), *installation], own_network=True) as system,
        journal_is_searched(system),
    ):
        # The packages are here; newer ones are out of reach.
        system.write("/etc/apt/apt.conf.d/throwaway", 'APT::Get::Upgrade "false";\n')
        start_postgresql(system)
        start_issuer(system, issuer)
        yield system


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
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, ISSUER)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(ISSUER)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    system.write("/run/issuer/key.pem", private.decode() + pem, 0o600)
    system.write("/run/issuer/www/api/auth/jwks", issuer.jwks().decode())
    system.write("/etc/hosts", f"127.0.0.1 localhost {ISSUER}\n")
    system.write("/etc/resolv.conf", "")
    system.write("/etc/ssl/certs/issuer.pem", pem)
    system.run("openssl", "rehash", "/etc/ssl/certs")
    command = f"/usr/bin/python3 {SOURCES}/tests/systemd/issuer.py /run/issuer"
    system.write("/run/systemd/system/issuer.service", f"[Service]\nExecStart={command}\n")
    system.run("systemctl", "start", "issuer")


def follow(system: System, page: str, titles: Iterable[str], stdin: str = "") -> None:
    """Run the commands of sections of a page, each block in a shell of its own."""
    said = []
    for title in titles:
        for block in sections(page)[title]:
            shell = ("bash", "-euo", "pipefail", "-c", block)
            done = system.run(*shell, stdin=stdin, seconds=120, check=False)
            said.append(f"## {title}\n{block}---\n{done.stdout}{done.stderr}")
            assert done.returncode == 0, "\n".join(said)
    print("\n".join(said))  # noqa: T201


def ask(system: System, issuer: Issuer, method: str, path: str) -> dict[str, object]:
    """Call a route as a user, there."""
    header = f"Authorization: Bearer {remember(issuer.token('alice'))}"
    command = ("curl", "--silent", "--fail", "--request", method, "--header", "@-", VAULT + path)
    answer = dict(json.loads(system.run(*command, stdin=header).stdout))
    remember(str(answer["masterKey"]))
    return answer


@pytest.mark.prove
def test_the_commands_of_the_how_tos_lead_from_nothing_to_a_rotated_kek(
    fresh: System, issuer: Issuer
) -> None:
    theirs = Issuer(url=f"https://{ISSUER}")
    theirs.key = issuer.key
    titles = [title for title in sections(INSTALL) if title not in {*ONE_OF_THESE, *INSTALLED}]
    follow(fresh, INSTALL, titles)
    made = ask(fresh, theirs, "POST", "/init")
    assert made["kekId"] == "systemd-kek_2026"

    follow(fresh, ROTATE, sections(ROTATE))
    assert ask(fresh, theirs, "GET", "/key") == made | {"kekId": "systemd-kek_2027"}
    listed = json.loads(fresh.run("custody-admin", "kek", "list", "--json").stdout)
    states = {kek["kek_id"]: kek["state"] for kek in listed}
    assert states == {"systemd-kek_2026": "retired", "systemd-kek_2027": "active"}
    for unit in ("custody.service", "custody.socket", "custody-rewrap.timer"):
        assert fresh.run("systemctl", "is-enabled", unit).stdout == "enabled\n"
        assert fresh.show(unit, "ActiveState") == {"ActiveState": "active"}
    # The keys are nowhere but in their credentials.
    assert not list(fresh.path("/root").glob("kek-*"))

    follow(fresh, INSTALL, ["A token of a KMS"], stdin="s.a-token-of-a-test\n")
    seen = fresh.run("ls", "/run/credentials/custody.service").stdout.split()
    assert seen == ["custody_database_url", "kek_2027", "vault_token"]
    follow(fresh, INSTALL, ["Another address"])
    assert fresh.path("/run/custody.sock").is_socket()


def test_every_section_with_commands_is_run() -> None:
    assert {*ONE_OF_THESE, *INSTALLED} <= {
        title for title, blocks in sections(INSTALL).items() if blocks
    }
