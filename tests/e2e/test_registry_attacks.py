"""Whoever has the passwords of both runtime roles, and no KEK, writes to the registry of KEKs."""

import base64
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from custody.settings import ConfigurationError
from tests.client import Client, becomes, client_session, readiness
from tests.db.command import Done, custody
from tests.e2e.keks import Place, overrides
from tests.kek.kms_stub import KmsStub, kms_stub
from tests.leaks import remember
from tests.proofs import some
from tests.servers import Daemon, Database, daemon_here, settings_for
from tests.tokens import Issuer

REGISTER = "SELECT * FROM auth.custody_register_kek($1, $2, $3, $4, $5, $6)"
RETIRE = "SELECT auth.custody_retire_kek($1)"
RECORD = "SELECT fingerprint, state, seal FROM auth.encryption_keks WHERE kek_id = $1"
NEXT = remember(base64.b64encode(secrets.token_bytes(32)).decode())
# The rotation that the operator means to make.
ROTATION = {
    "KEK": "env:NEXT?id=env-v2",
    "OLD_KEKS": "env:MANA_AUTH_KEK",
    "raw_NEXT": NEXT,
}


async def squat(
    database: Database, kek_id: str, seal: str | None = None, *, active: bool = False
) -> None:
    """Register a kek_id with a fingerprint that no key has."""
    async with database.connect("custody_app") as thief:
        scheme = kek_id.partition(":")[0] if ":" in kek_id else "env"
        await thief.fetch(REGISTER, kek_id, scheme, "env:NEW", "0" * 64, seal, active)


async def retire(database: Database, kek_id: str) -> str:
    async with database.connect("custody_rewrap") as thief:
        return str(await thief.fetchval(RETIRE, kek_id))


async def record(database: Database, kek_id: str) -> Mapping[str, Any]:
    (row,) = await database.fetch(RECORD, kek_id)
    return dict(row)


async def init(daemon: Daemon, user: str) -> Any:
    async with client_session() as session:
        return (await Client(daemon, session, user).init()).json


def forget(database: Database, kek_id: str) -> Done:
    environ = {"CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner")}
    return custody(environ, "kek", "forget", kek_id, "--yes")


@pytest.mark.parametrize("active", some([False, True], True))
@pytest.mark.parametrize("seal", ["none", "junk", "another's"])
async def test_the_next_kek_id_is_taken_before_its_kek_is_there(
    database: Database, issuer: Issuer, tmp_path: Path, seal: str, *, active: bool
) -> None:
    async with daemon_here(database, issuer, tmp_path) as daemon:
        first = await init(daemon, "alice")
        another = (await record(database, "env-v1"))["seal"]
        forged = {"none": None, "junk": "1.junk", "another's": another}[seal]
        await squat(database, "env-v2", forged, active=active)
        # Those that serve are not held up.
        assert await init(daemon, "alice") == first
        assert (await init(daemon, "bob"))["kekId"] == "env-v1"
    with capture_logs() as logged:
        async with daemon_here(database, issuer, tmp_path, **ROTATION) as daemon:
            await becomes(daemon, 200)
            assert (await init(daemon, "carol"))["kekId"] == "env-v2"
            assert await init(daemon, "alice") == first
    assert [one["kek_id"] for one in logged if one["event"] == "kek_record_poisoned"] == ["env-v2"]
    sealed = await record(database, "env-v2")
    assert sealed["state"] == "active"
    assert sealed["fingerprint"] != "0" * 64
    assert sealed["seal"].startswith("1.dk-")
    # From now on it stands for that key, and for no other.
    other = ROTATION | {"raw_NEXT": remember(base64.b64encode(secrets.token_bytes(32)).decode())}
    with pytest.raises(ConfigurationError, match="stands for other key material") as refused:
        async with daemon_here(database, issuer, tmp_path, **other):
            pass
    assert "custody kek forget" not in str(refused.value)


@pytest.mark.prove
@pytest.mark.parametrize("seal", [None, "1.junk"])
async def test_the_next_kek_id_is_retired_before_its_kek_is_there(
    database: Database, issuer: Issuer, tmp_path: Path, seal: str | None
) -> None:
    """Which is for good, but for the owner."""
    async with daemon_here(database, issuer, tmp_path) as daemon:
        first = await init(daemon, "alice")
    await squat(database, "env-v2", seal)
    assert await retire(database, "env-v2") == "retired"
    with pytest.raises(ConfigurationError, match="if that record is not yours: custody kek forget"):
        async with daemon_here(database, issuer, tmp_path, **ROTATION):
            pass
    done = forget(database, "env-v2")
    assert (done.code, done.out) == (0, "the record of env-v2 was removed\n")
    async with daemon_here(database, issuer, tmp_path, **ROTATION) as daemon:
        await becomes(daemon, 200)
        assert (await init(daemon, "carol"))["kekId"] == "env-v2"
        assert await init(daemon, "alice") == first


@pytest.mark.prove
async def test_the_record_in_use_is_neither_changed_nor_forgotten(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    async with daemon_here(database, issuer, tmp_path) as daemon:
        first = await init(daemon, "alice")
        before = await record(database, "env-v1")
        await squat(database, "env-v1", "1.junk", active=True)
        assert await record(database, "env-v1") == before
        async with database.connect("custody_app") as thief:
            # What a thief can: the seal of a record off. It is proven and sealed anew.
            await thief.fetchval("SELECT auth.custody_doubt_kek('env-v1', $1)", before["seal"])
        await squat(database, "env-v1", None, active=True)
        assert await retire(database, "env-v1") == "active"
        done = forget(database, "env-v1")
        assert (done.code, done.complaint) == (1, "env-v1 was not removed: rows carry it")
        assert await init(daemon, "alice") == first
    environ = settings_for(database, issuer, tmp_path)
    assert custody(environ, "doctor").code == 0
    async with daemon_here(database, issuer, tmp_path) as daemon:
        await becomes(daemon, 200)
        assert await init(daemon, "alice") == first
    assert await record(database, "env-v1") == before


# ── an alias ──────────────────────────────────────────────────────────────────


@pytest.fixture
def stub() -> Iterator[KmsStub]:
    with kms_stub() as running:
        running.make_key("alias/custody")
        yield running


@pytest.mark.prove
@pytest.mark.parametrize("seal", [None, "1.junk"])
async def test_an_alias_opens_no_key_that_a_row_names(
    database: Database, issuer: Issuer, tmp_path: Path, stub: KmsStub, seal: str | None
) -> None:
    """A key of the same account, for which the daemon may well have the right to decrypt."""
    place = Place("aws-kms:alias/custody", "", stub.environ)
    arn = stub.make_key().arn
    async with daemon_here(database, issuer, tmp_path, **overrides(place)) as daemon:
        await init(daemon, "alice")
        generation = await database.value("SELECT generation FROM auth.encryption_vaults")
    context = {
        "custody:format": "3",
        "custody:user": "alice",
        "custody:generation": str(generation),
    }
    blob, _ = stub.kms.encrypt(arn, b"m" * 32, context)
    await squat(database, f"aws-kms:{arn}", seal)
    async with database.connect("custody_app") as thief, thief.transaction():
        await thief.execute("SELECT set_config('app.current_user_id', 'alice', true)")
        done = await thief.execute(
            "UPDATE auth.encryption_vaults SET kek_id = $1, wrapped_mk = $2",
            *(f"aws-kms:{arn}", base64.b64encode(blob).decode()),
        )
        assert done == "UPDATE 1"
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(place)) as daemon,
        client_session() as session,
    ):
        answer = await Client(daemon, session, "alice").key()
        assert (answer.status, answer.code) == (503, "KEK_UNAVAILABLE")
        assert (await database.audit("alice"))[-1] == ("failed_fetch", "kek-not-configured", 503)
        status, parts = await readiness(daemon)
        assert status == 503
        assert f"aws-kms:{arn}" in parts["kek"]
        listed = custody(daemon.settings, "kek", "list").out
        assert listed.count(" yes") == 1
    assert [one for name, one in stub.requests if one.get("KeyId") == arn] == []


@pytest.mark.prove
async def test_an_alias_opens_what_it_has_meant_before(
    database: Database, issuer: Issuer, tmp_path: Path, stub: KmsStub
) -> None:
    """By the sealed record alone: the alias names another key now."""
    place = Place("aws-kms:alias/custody", "", stub.environ)
    async with daemon_here(database, issuer, tmp_path, **overrides(place)) as daemon:
        first = await init(daemon, "alice")
        stub.kms.delete_alias("alias/custody")
        arn = stub.make_key("alias/custody").arn
        assert (await init(daemon, "bob"))["kekId"] == f"aws-kms:{arn}"
        assert await init(daemon, "alice") == first
        listed = custody(daemon.settings, "kek", "list").out
        assert listed.count(" yes") == 1, listed  # no data key is open to vouch for the other one
        assert custody(daemon.settings, "doctor").code == 1
