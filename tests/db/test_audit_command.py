"""``custody audit verify`` on what a daemon has written: the vaults, and all of the command."""

import asyncio
import json
import secrets
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import pytest

from custody.audit.note import parse
from tests.audit_log import AuditLog
from tests.client import Client, client_session
from tests.db.command import Done, custody
from tests.eventually import eventually
from tests.sealed_rows import past_triggers
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

Devices = Callable[[str], Client]
NOTE = "SELECT note FROM auth.encryption_audit_checkpoints"
OPENSSL = (
    *("openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey", "key"),
    *("-sigfile", "signature", "-in", "text"),
)


async def run(daemon: Daemon, *words: str, **changes: str) -> Done:
    environ = {
        **daemon.settings,
        "CUSTODY_OWNER_DATABASE_URL": daemon.database.url("custody_owner"),
        **changes,
    }
    return await asyncio.to_thread(custody, environ, "audit", *words)


async def findings(daemon: Daemon) -> list[tuple[str, str]]:
    done = await run(daemon, "verify", "--json")
    said = json.loads(done.out)
    assert done.code == (0 if said["good"] else 1), done.out + done.err
    return [(one["kind"], one["user"]) for one in said["findings"]]


async def keep(daemon: Daemon) -> None:
    """Keep the vaults as they are now, to be put back."""
    await daemon.database.execute("CREATE TABLE kept AS TABLE auth.encryption_vaults")


@pytest.mark.prove
async def test_a_life_of_a_vault(daemon: Daemon, device: Devices) -> None:
    alice, bob = device("alice"), device("bob")
    await alice.init()
    await bob.init()
    await alice.key()
    await alice.rotate()
    assert await findings(daemon) == []
    done = await run(daemon, "verify")
    assert done.out.splitlines()[-1].endswith("2 vaults: no finding")


# An older row of hers, seal and all: nothing but the audit shows it.
PUT_BACK = """
UPDATE auth.encryption_vaults AS new
SET (generation, key_check, wrapped_mk, wrap_iv, seal, seal_serial)
    = (old.generation, old.key_check, old.wrapped_mk, old.wrap_iv, old.seal, old.seal_serial)
FROM kept AS old WHERE new.user_id = 'alice' AND old.user_id = 'alice'
"""


@pytest.mark.prove
@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE auth.encryption_vaults SET generation = 7 WHERE user_id = 'alice'",
        "UPDATE auth.encryption_vaults SET key_check = NULL WHERE user_id = 'alice'",
        "DELETE FROM auth.encryption_vaults WHERE user_id = 'alice'",
        PUT_BACK,
    ],
    ids=["generation", "key check", "deleted", "put back"],
)
async def test_a_vault_that_is_not_what_was_left(
    daemon: Daemon, device: Devices, tampering: str
) -> None:
    alice = device("alice")
    await alice.init()
    await device("bob").init()
    await keep(daemon)
    await alice.rotate()
    async with past_triggers(daemon.database) as superuser:
        await superuser.execute(tampering)
    assert await findings(daemon) == [("vault", "alice")]


@pytest.mark.prove
async def test_an_erased_vault_that_was_put_back(daemon: Daemon, device: Devices) -> None:
    await device("alice").init()
    await keep(daemon)
    environ = {"CUSTODY_OWNER_DATABASE_URL": daemon.database.url("custody_owner")}
    done = await asyncio.to_thread(custody, environ, "users", "erase", "alice", "--yes")
    assert done.code == 0
    assert await findings(daemon) == []
    async with past_triggers(daemon.database) as superuser:
        await superuser.execute("INSERT INTO auth.encryption_vaults SELECT * FROM kept")
    assert await findings(daemon) == [("vault", "alice")]


@pytest.mark.prove
async def test_a_state_that_somebody_made_up(daemon: Daemon, device: Devices) -> None:
    """He leaves the vault as he likes it, and an audit row that says the same: it has no seal."""
    await device("alice").init()
    await daemon.database.execute(
        "INSERT INTO auth.encryption_vault_audit (id, user_id, action, status, state)"
        " VALUES ('made-up', 'alice', 'erase', 200, repeat('0', 64))"
    )
    found = dict(await findings(daemon))
    assert found == {"vault": "alice"} | ({"no_seal": "alice"} if "no_seal" in found else {})


@pytest.mark.prove
async def test_the_role_that_only_reads(daemon: Daemon, device: Devices) -> None:
    await device("alice").init()
    url = daemon.database.url("custody_app")
    done = await run(daemon, "verify", CUSTODY_AUDIT_DATABASE_URL=url)
    assert (done.code, done.out) == (78, "")
    assert "this role does not see the whole audit" in done.complaint


@pytest.mark.prove
async def test_nothing_is_said_without_the_data_key(daemon: Daemon, device: Devices) -> None:
    await device("alice").init()
    other = "b3RoZXIga2V5IG1hdGVyaWFsIHRoYW4gaXQgd2FzISE="
    done = await run(daemon, "verify", MANA_AUTH_KEK=other, CUSTODY_KEK="env:MANA_AUTH_KEK?id=o")
    assert done.code != 0
    assert "not seen: seals and signatures" in done.out


@pytest.mark.prove
async def test_a_checkpoint_that_was_kept(daemon: Daemon, device: Devices, tmp_path: Path) -> None:
    await device("alice").init()
    log = AuditLog(daemon.database)
    await log.grow(1)
    file = tmp_path / "checkpoint"
    file.write_text(log.notes[0])
    for option in ("--checkpoint", "--since"):
        done = await run(daemon, "verify", option, str(file))
        assert "of which there is a checkpoint that was kept" not in done.out
    file.write_text("junk")
    done = await run(daemon, "verify", "--checkpoint", str(file))
    assert (done.code, "is no checkpoint" in done.err) == (2, True)


@pytest.mark.prove
async def test_the_login_that_only_reads(daemon: Daemon, device: Devices) -> None:
    """A member of custody_audit sees all of it, and can change nothing."""
    await device("alice").init()
    await AuditLog(daemon.database).grow(1)
    login = f"auditor_{secrets.token_hex(4)}"
    await daemon.database.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'x' IN ROLE custody_audit")
    try:
        url = daemon.database.url("custody_app")
        place = url.rpartition("@")[2]
        done = await run(
            daemon,
            *("verify", "--json"),
            CUSTODY_AUDIT_DATABASE_URL=f"postgresql://{login}:x@{place}",
            CUSTODY_OWNER_DATABASE_URL="",
        )
        said = json.loads(done.out)
        assert said["rows"] >= 9
        assert said["vaults"] >= 1
        assert said["unseen"] == []
    finally:
        await daemon.database.execute(f"DROP ROLE {login}")


@pytest.mark.prove
async def test_the_key_that_others_verify_with(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """What is printed is the key of the checkpoint: OpenSSL is given nothing but the line."""
    async with (
        daemon_here(database, issuer, tmp_path, AUDIT_SEAL_INTERVAL="1") as daemon,
        client_session() as session,
    ):
        assert (await run(daemon, "key")).code == 1
        assert (await Client(daemon, session, "alice").init()).status == 200

        async def sealed() -> str:
            return str(await database.value(NOTE) or "")

        said = parse(await eventually(sealed))
        done = await run(daemon, "key")
        assert done.code == 0, done.err
        name, _, rest = done.out.strip().partition("+")
        assert name == said.text.splitlines()[0]
        # The head of a SubjectPublicKeyInfo of Ed25519 (RFC 8410, section 4).
        public = bytes.fromhex("302a300506032b6570032100") + b64decode(rest.partition("+")[2])[1:]
        (tmp_path / "key").write_bytes(public)
        (tmp_path / "signature").write_bytes(said.signatures[0].bytes)
        (tmp_path / "text").write_text(said.text)
        verified = await asyncio.create_subprocess_exec(*OPENSSL, cwd=tmp_path)
        assert await verified.wait() == 0
        done = await run(daemon, "verify")
        assert (done.code, done.out) == (0, "1 rows, 1 checkpoints, 1 vaults: no finding\n")
