"""The how-tos, run as they stand, in a system with the PostgreSQL, issuer and ports they name."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping

import pytest

from tests.leaks import remember
from tests.servers import ROOT
from tests.systemd.conftest import need
from tests.systemd.howto import sections
from tests.systemd.installation import CHECKOUT
from tests.systemd.neighbours import BAO, ISSUER, start_issuer, start_openbao, start_postgresql
from tests.systemd.throwaway import Bind, System, throwaway
from tests.tokens import Issuer

pytestmark = pytest.mark.timeout(600)

INSTALL, ROTATE, APPROLE = "install-on-debian", "rotate-a-systemd-kek", "vault-on-systemd"
AUDIT = "follow-the-audit"
INSTALLED = {"custody"}  # by the fixture, with the same commands
ONE_OF_THESE = ("Another address",)  # what not every host has
VAULT = "http://127.0.0.1:3001/api/v1/me/encryption-vault"


@pytest.fixture
def fresh(installation: tuple[Bind, ...], issuer: Issuer) -> Iterator[System]:
    """A host with the packages of the how-to, and somewhere in its network the issuer."""
    # They must be here: the system has no way to a mirror.
    need(None if shutil.which("dpkg-query") else "this is no Debian")
    (command,) = sections(INSTALL)["Packages"]
    asked = ["dpkg-query", "--show", "--showformat=${db:Status-Status} "]
    names = command.split("--yes")[1].split()
    found = subprocess.run([*asked, *names], capture_output=True, text=True, check=False)
    there = set(found.stdout.split()) == {"installed"} and found.returncode == 0
    need(None if there else f"packages of the how-to are missing: {found.stderr}")
    with throwaway([CHECKOUT, BAO, *installation], own_network=True) as system:
        # The packages are here; newer ones are out of reach.
        system.write("/etc/apt/apt.conf.d/throwaway", 'APT::Get::Upgrade "false";\n')
        start_postgresql(system)
        start_issuer(system, issuer)
        yield system


def follow(
    system: System, page: str, titles: Iterable[str], environ: Mapping[str, str] | None = None
) -> None:
    """Run the commands of sections of a page, each block in a shell of its own."""
    said = []
    for title in titles:
        for block in sections(page)[title]:
            shell = ("bash", "-euo", "pipefail", "-c", block)
            done = system.run(*shell, environ=environ, seconds=120, check=False)
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

    follow(fresh, AUDIT, ["On a host with our units", "The journal"])
    row = json.loads(fresh.run("journalctl", "CUSTODY_AUDIT_USER=alice", "--output=json").stdout)
    assert json.loads(row["MESSAGE"])["action"] == "init"

    follow(fresh, ROTATE, sections(ROTATE))
    assert ask(fresh, theirs, "GET", "/key") == made | {"kekId": "systemd-kek_2027"}
    listed = json.loads(fresh.run("custody-admin", "kek", "list", "--json").stdout)
    states = {kek["kek_id"]: kek["state"] for kek in listed}
    assert states == {"systemd-kek_2026": "retired", "systemd-kek_2027": "active"}
    for unit in ("custody.service", "custody.socket", "custody-rewrap.timer"):
        assert fresh.run("systemctl", "is-enabled", unit).stdout == "enabled\n"
        assert fresh.show("ActiveState", unit=unit) == ["active"]
    # The keys are nowhere but in their credentials.
    assert not list(fresh.path("/root").glob("kek-*"))

    follow(fresh, INSTALL, ["Another address"])
    assert fresh.path("/run/custody.sock").is_socket()


@pytest.mark.prove
def test_the_commands_of_the_how_tos_lead_to_a_rotated_key_in_openbao(
    fresh: System, issuer: Issuer
) -> None:
    theirs = Issuer(url=f"https://{ISSUER}")
    theirs.key = issuer.key
    administrator = start_openbao(fresh)
    titles = [title for title in sections(INSTALL) if title not in {*ONE_OF_THESE, *INSTALLED}]
    first = titles.index("The KEK")
    follow(fresh, INSTALL, titles[:first])
    follow(fresh, APPROLE, ["The key and its AppRole"], administrator)
    remember(fresh.read("/run/vault-secret-id"))
    assert fresh.run("stat", "--format=%a", "/run/vault-secret-id").stdout == "600\n"
    follow(fresh, APPROLE, ["The login", "Use it"])
    follow(fresh, INSTALL, titles[first + 1 :])
    made = ask(fresh, theirs, "POST", "/init")
    assert made["kekId"] == "vault:transit/custody:v1"

    follow(fresh, APPROLE, ["Rotate the key", "Another secret id"], administrator)
    assert ask(fresh, theirs, "GET", "/key") == made | {"kekId": "vault:transit/custody:v2"}
    listed = json.loads(fresh.run("custody-admin", "kek", "list", "--json").stdout)
    states = {kek["kek_id"]: kek["state"] for kek in listed}
    assert states["vault:transit/custody:v2"] == "active"
    assert fresh.run("custody-admin", "doctor").returncode == 0
    # It is nowhere but in its credential.
    assert not list(fresh.path("/root").glob("vault-*"))


def test_no_page_leaves_a_secret_id_to_all() -> None:
    written = [
        line
        for page in (ROOT / "docs").rglob("*.md")
        for line in page.read_text("utf-8").splitlines()
        if re.search(r"secret.id\b.* > ", line)
    ]
    assert len(written) >= 3
    assert [line for line in written if "(umask 077; " not in line] == []


def test_every_section_with_commands_is_run() -> None:
    assert {*ONE_OF_THESE, *INSTALLED} <= {
        title for title, blocks in sections(INSTALL).items() if blocks
    }
