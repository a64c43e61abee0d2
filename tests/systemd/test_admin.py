"""custody-admin: it runs as the daemon would, with a KMS too, and says what systemd can't start."""

import signal

import pytest

from tests.bao_server import Bao
from tests.client import readiness
from tests.eventually import soon
from tests.systemd.host import CREDENTIALS, KEKS, Host
from tests.systemd.throwaway import Answer

pytestmark = pytest.mark.timeout(600)

SHARED = "/etc/custody/service.d/vault.conf"
PROGRAM = "/opt/custody/bin/custody"


def admin(host: Host, *words: str) -> Answer:
    return host.run("custody-admin", *words, check=False)


def use_vault(host: Host, bao: Bao) -> dict[str, str]:
    """Make a key the KEK, and return the variables of the login."""
    key = bao.make_key(derived=True)
    host.configure(kek=f"vault:transit/{key}")
    role_id, secret_id = bao.app_role(bao.write_policy(key))
    return {
        "VAULT_ADDR": bao.address,
        "VAULT_ROLE_ID": role_id,
        "VAULT_SECRET_ID": secret_id,
    }


@pytest.mark.prove
def test_one_drop_in_is_the_login_of_daemon_job_and_custody_admin(debian: Host, bao: Bao) -> None:
    login = use_vault(debian, bao)
    debian.seal("vault_secret_id", login["VAULT_SECRET_ID"])
    debian.write(
        SHARED,
        "[Service]\n"
        f"Environment=VAULT_ADDR={login['VAULT_ADDR']} VAULT_ROLE_ID={login['VAULT_ROLE_ID']}\n"
        "Environment=VAULT_SECRET_ID_FILE=%d/vault_secret_id\n"
        "LoadCredentialEncrypted=vault_secret_id\n",
    )
    debian.run("systemctl", "daemon-reload")
    debian.start()
    debian.start("custody-rewrap.service")
    counted = admin(debian, "rewrap", "run", "--dry-run")
    assert (counted.returncode, counted.stdout[:2]) == (0, "0 "), counted.stderr


@pytest.mark.prove
def test_the_audit_has_a_login_of_its_own(debian: Host) -> None:
    debian.start()
    debian.seal("custody_audit_database_url", debian.daemon.database.url("custody_owner"))
    verified = admin(debian, "audit", "verify")
    assert (verified.returncode, "no finding" in verified.stdout) == (0, True), verified.stderr
    verified = admin(debian, "verify")
    assert (verified.returncode, "all of them open" in verified.stdout) == (0, True)
    debian.start("custody-verify.service")
    assert "all of them open" in debian.journal("custody-verify.service")


@pytest.mark.prove
def test_what_changes_the_audit_is_the_owners(debian: Host) -> None:
    debian.start()
    debian.seal("custody_owner_database_url", debian.daemon.database.url("custody_owner"))
    redacted = admin(debian, "audit", "redact", "--before", "2026-01-01", "--yes")
    assert (redacted.returncode, "out of 0 rows" in redacted.stdout) == (0, True), redacted.stderr
    words = ("audit", "prune", "--before", "2026-01-01", "--export", "-", "--yes")
    pruned = admin(debian, *words)
    assert (pruned.returncode, "nothing to prune" in pruned.stdout) == (0, True), pruned.stderr


@pytest.mark.prove
async def test_who_erases_keeps_a_record_that_the_daemon_reads(debian: Host) -> None:
    record = "/var/lib/custody/erasures.jsonl"
    debian.configure(erasure_record=record)
    debian.start()
    database = debian.daemon.database
    debian.seal("custody_owner_database_url", database.url("custody_owner"))
    await database.execute("INSERT INTO auth.users (id) VALUES ('alice')")
    erased = admin(debian, "users", "erase", "alice", "--yes")
    assert (erased.returncode, erased.stderr) == (0, "")
    assert '"user": "alice"' in debian.read(record)
    replayed = admin(debian, "users", "replay-erasures", "--yes")
    assert replayed.stdout.startswith("0 of 1 erasures"), replayed.stderr
    debian.systemctl("restart", "custody.service")
    assert "erasure_record_read" in debian.journal("custody.service")
    assert (await readiness(debian.daemon))[1]["erasures"] == "ok"


@pytest.mark.prove
def test_a_drop_in_of_the_daemon_alone_is_read_too(debian: Host, bao: Bao) -> None:
    login = use_vault(debian, bao)
    # As many ways as there are: a file of variables, a plain credential, one in the unit itself.
    secret_id = login.pop("VAULT_SECRET_ID")
    debian.write("/etc/custody/secret-id", secret_id, 0o600)
    debian.write("/etc/custody/vault.env", f"VAULT_ADDR={login['VAULT_ADDR']}\n", 0o600)
    debian.drop_in(
        "custody.service",
        "[Service]",
        "EnvironmentFile=/etc/custody/vault.env",
        "LoadCredential=secret_id:/etc/custody/secret-id",
        f"SetCredential=role_id:{login['VAULT_ROLE_ID']}",
        'Environment="VAULT_SECRET_ID_FILE=%d/secret_id" VAULT_ROLE_ID_FILE=%d/role_id',
    )
    looked = admin(debian, "doctor")
    assert looked.returncode == 0, looked.stdout + looked.stderr


@pytest.mark.prove
def test_each_way_in_which_it_cannot_start_is_one_line(debian: Host) -> None:
    def line(*words: str) -> str:
        done = admin(debian, *(words or ("kek", "list")))
        assert (done.returncode, done.stdout) == (78, "")
        (said,) = done.stderr.splitlines()
        return said.removeprefix("custody-admin: ")

    assert admin(debian, "doctor", "--nothing").returncode == 2
    shown = admin(debian, "users", "erase", "--yes", "$HOME")
    assert "/root" not in shown.stdout + shown.stderr

    sealed = debian.read(f"{KEKS}/2026")
    debian.write(f"{KEKS}/2027", sealed)
    debian.write(f"{CREDENTIALS}/custody_rewrap_database_url", "c2Vh\n")
    assert line() == (
        "no command gets its credentials (243/CREDENTIALS): "
        f"{KEKS}/2027 does not decrypt on this host under the name kek_2027, "
        f"{CREDENTIALS}/custody_rewrap_database_url does not decrypt on this host under the name "
        "custody_rewrap_database_url"
    )
    debian.drop_in("custody.service", "[Service]", "LoadCredential=a:/nowhere/a")
    assert "/nowhere/a is not there" in line()
    debian.drop_in("custody.service", "[Service]")
    debian.run("rm", f"{KEKS}/2027", f"{CREDENTIALS}/custody_rewrap_database_url")

    # /opt/custody is shared, and may not be changed.
    debian.run("mkdir", "--parents", "/var/lib/opt")
    debian.run("mount", "--bind", "/var/lib/opt", "/opt/custody")
    assert line() == f"{PROGRAM} is not there, or may not be executed: make /opt/custody anew"
    debian.write(PROGRAM, "#!/opt/custody/bin/python3\n", 0o755)
    assert line() == (
        f"{PROGRAM} wants /opt/custody/bin/python3, which is not there (203/EXEC): "
        "make /opt/custody anew"
    )
    debian.write(PROGRAM, "no program at all", 0o755)
    assert line() == f"{PROGRAM} can't be executed (203/EXEC): make /opt/custody anew"
    debian.write(PROGRAM, "#!/bin/sh\nkill -9 $$\n", 0o755)
    assert "it did not come to its end (signal)" in line()
    debian.drop_in("custody.service", "[Service]", "EnvironmentFile=/nowhere/environ")
    debian.write(PROGRAM, "#!/bin/sh\n", 0o755)
    assert "it did not come to its end (resources)" in line()
    debian.drop_in("custody.service", "[Service]", "UnsetEnvironment=PATH")
    assert admin(debian, "doctor").returncode == 0
    assert debian.systemctl("--failed", "--no-legend", "list-units").stdout == ""
    debian.run("rm", "/usr/local/lib/systemd/system/custody.service")
    debian.run("systemctl", "daemon-reload")
    assert line().startswith("custody.service is ")


@pytest.mark.prove
@pytest.mark.parametrize("ended_by", ["INT", "TERM"])
def test_an_interrupted_command_does_not_go_on_unseen(ended_by: str, debian: Host) -> None:
    debian.run("mkdir", "--parents", "/var/lib/opt/bin")
    debian.run("mount", "--bind", "/var/lib/opt", "/opt/custody")
    debian.write(PROGRAM, "#!/bin/sh\nexec sleep infinity\n", 0o755)
    command = debian.spawn("custody-admin", "rewrap", "run")
    listed = ("list-units", "--no-legend", "--state=active", "custody-admin-*")
    soon(lambda: bool(debian.systemctl(*listed).stdout))
    # Its unit is named for it.
    pid = debian.systemctl(*listed).stdout.partition("custody-admin-")[2].partition(".")[0]
    debian.run("kill", f"-{ended_by}", pid)
    assert command.wait(30) == 128 + signal.SIGINT
    assert debian.systemctl(*listed).stdout == ""
