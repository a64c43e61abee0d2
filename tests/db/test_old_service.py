"""A database of the service that custody replaces migrates in place, and every key still opens."""

import base64
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.client import Answer, Client, client_session
from tests.db.old_service import AUDIT, KEK, ROWS, move
from tests.e2e.browser import encode, open_recovery
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

Device = Callable[[str], Client]

OPEN = [row for row in ROWS if not row["zero_knowledge"]]
WITH_CODE = [row for row in ROWS if row["recovery_code"]]
ZK = [row for row in ROWS if row["zero_knowledge"]]
ACCEPTS = {"raw_MANA_AUTH_KEK": KEK, "LEGACY_ROWS": "accept"}


@pytest.fixture(params=["custody_owner", "postgres"])
async def audit(request: pytest.FixtureRequest, empty: Database) -> list[Any]:
    """What the audit was before an old database of an ordinary role or of superuser was moved."""
    return await move(empty, request.param)


@pytest.fixture
def old(audit: list[Any], empty: Database) -> Database:
    """The old database, migrated."""
    return empty


@pytest.fixture
async def daemon(old: Database, issuer: Issuer, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon on the old database, the door for its rows open."""
    async with daemon_here(old, issuer, tmp_path, **ACCEPTS) as running:
        yield running


def open_by_code(row: dict[str, Any], blob: Mapping[str, Any]) -> str:
    """Open a recovery wrap as the browser client does."""
    return encode(open_recovery(bytes.fromhex(row["recovery_code"].replace("-", "")), blob))


async def test_every_key_opens(old: Database, audit: list[Any], device: Device) -> None:
    assert len(OPEN) == 18
    for row in OPEN:
        answer = await device(row["user_id"]).key()
        assert answer.json == {
            "masterKey": row["master_key"],
            "formatVersion": 1,
            "kekId": "env-v1",
        }
        assert answer.headers["Etag"] == '"1"'
        assert (await device(row["user_id"]).init()).json == answer.json
    assert await old.fetch(AUDIT) == audit
    # Reads are reads: what brings a row over is a change, or the run.
    changed = "SELECT count(*) FROM auth.encryption_vaults WHERE key_check || seal IS NOT NULL"
    assert await old.value(changed) == 0


@pytest.mark.prove
async def test_every_recovery_wrap_is_as_it_was(old: Database, device: Device) -> None:
    assert len(WITH_CODE) == 12
    for row in WITH_CODE:
        (stored,) = await old.fetch(
            "SELECT recovery_wrapped_mk, recovery_iv FROM auth.encryption_vaults"
            " WHERE user_id = $1",
            row["user_id"],
        )
        wrapped, iv = stored
        assert (wrapped, iv) == (row["recovery_wrapped_mk"], row["recovery_iv"])
        blob = {"recoveryWrappedMk": wrapped, "recoveryIv": iv}
        assert open_by_code(row, blob) == row["master_key"]
        status = (await device(row["user_id"]).status()).json
        assert status["hasRecoveryWrap"] is True
        assert status["zeroKnowledge"] is row["zero_knowledge"]
        assert status["recoverySetAt"] == "2025-02-03T04:05:06Z"


@pytest.mark.prove
async def test_zero_knowledge_rows_answer_the_blob(old: Database, device: Device) -> None:
    assert len(ZK) == 6
    for row in ZK:
        for answer in (await device(row["user_id"]).key(), await device(row["user_id"]).init()):
            assert answer.json == {
                "requiresRecoveryCode": True,
                "recoveryWrappedMk": row["recovery_wrapped_mk"],
                "recoveryIv": row["recovery_iv"],
                "formatVersion": 1,
            }
        assert open_by_code(row, answer.json) == row["master_key"]


@pytest.mark.prove
async def test_zero_knowledge_off_takes_the_clients_word_once(
    old: Database, device: Device
) -> None:
    row = ZK[0]
    client = device(row["user_id"])
    assert (await client.disable_zk(row["master_key"])).status == 200
    assert (await old.audit(row["user_id"]))[-1] == (
        "zk_disable",
        "unverified-master-key",
        200,
    )
    key = (await client.key()).json
    assert (key["masterKey"], key["formatVersion"]) == (row["master_key"], 3)
    assert (await client.enable_zk()).status == 200
    other = base64.b64encode(bytes(range(32))).decode()
    assert (await client.disable_zk(other)).code == "MASTER_KEY_MISMATCH"


@pytest.mark.prove
async def test_zero_knowledge_on_keeps_the_check_of_an_old_key(
    old: Database, device: Device
) -> None:
    row = next(row for row in OPEN if row["recovery_code"])
    client = device(row["user_id"])
    assert (await client.enable_zk()).status == 200
    other = base64.b64encode(bytes(range(32))).decode()
    assert (await client.disable_zk(other)).code == "MASTER_KEY_MISMATCH"
    assert (await client.disable_zk(row["master_key"])).status == 200
    assert (await client.key()).json["masterKey"] == row["master_key"]


@pytest.mark.prove
async def test_rotate_writes_format_3(old: Database, device: Device) -> None:
    row = next(row for row in OPEN if row["recovery_code"])
    client = device(row["user_id"])
    rotated = await client.rotate()
    assert rotated.json["formatVersion"] == 3
    assert rotated.json["masterKey"] != row["master_key"]
    assert rotated.headers["Etag"] == '"2"'
    assert (await client.key()).json == rotated.json
    assert (await client.status()).json["hasRecoveryWrap"] is False


async def test_audit_outlives_the_account(old: Database, audit: list[Any]) -> None:
    assert await old.fetch(AUDIT) == audit
    assert len(audit) == len(ROWS)
    keys = (
        "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"
        " AND conrelid = 'auth.encryption_vault_audit'::regclass"
    )
    assert await old.value(keys) == 0
    await old.execute("DELETE FROM auth.users WHERE id = 'vec-003'")
    assert await old.fetch(AUDIT) == audit
    assert await vault_count(old, "vec-003") == 0
    assert await vault_count(old, "vec-004") == 1


async def vault_count(old: Database, user: str) -> int:
    count = "SELECT count(*) FROM auth.encryption_vaults WHERE user_id = $1"
    return int(await old.value(count, user))


async def test_user_without_a_vault_gets_one(old: Database, device: Device) -> None:
    client = device("no-vault")
    assert (await client.key()).code == "VAULT_NOT_INITIALISED"
    made = await client.init()
    assert (made.status, made.json["formatVersion"]) == (200, 3)
    assert (await client.key()).json == made.json
    assert [row[0] for row in await old.audit("no-vault")] == [
        "failed_fetch",
        "init",
        "fetch",
    ]


@pytest.mark.prove
async def test_unknown_user_is_unknown_and_leaves_nothing(old: Database, device: Device) -> None:
    client = device("stranger")
    wrapped, iv = WITH_CODE[0]["recovery_wrapped_mk"], WITH_CODE[0]["recovery_iv"]
    answers: list[Answer] = [
        await client.key(),
        await client.init(),
        await client.rotate(),
        await client.set_recovery(wrapped, iv),
        await client.clear_recovery(),
        await client.enable_zk(),
        await client.disable_zk(WITH_CODE[0]["master_key"]),
        await client.audit(),
    ]
    assert [(answer.status, answer.code) for answer in answers] == [(404, "USER_UNKNOWN")] * 8
    status = await client.status()
    assert (status.status, status.json["vaultExists"]) == (200, False)
    assert await old.audit("stranger") == []
    assert await vault_count(old, "stranger") == 0
    assert await old.value("SELECT count(*) FROM auth.users") == len(ROWS) + 1


async def test_runtime_roles_read_nothing_of_users_but_the_id(old: Database) -> None:
    assert old.psql("custody_app", "-c", "SELECT id FROM auth.users").returncode == 0
    refused = (
        ("custody_app", "SELECT email FROM auth.users"),
        ("custody_app", "SELECT * FROM auth.users"),
        ("custody_app", "INSERT INTO auth.users (id) VALUES ('x')"),
        ("custody_app", "UPDATE auth.users SET name = ''"),
        ("custody_app", "DELETE FROM auth.users"),
        ("custody_rewrap", "SELECT id FROM auth.users"),
    )
    for role, sql in refused:
        done = old.psql(role, "-c", sql)
        assert done.returncode != 0, sql
        assert "permission denied for table users" in done.stderr
    # A table that someone else keeps is left as it is.
    forced = (
        "SELECT relrowsecurity OR relforcerowsecurity FROM pg_class"
        " WHERE oid = 'auth.users'::regclass"
    )
    assert await old.value(forced) is False


async def test_old_policies_and_indexes_are_gone(old: Database) -> None:
    left = await old.fetch(
        "SELECT policyname::text AS name FROM pg_policies WHERE policyname LIKE '%isolation'"
        " UNION ALL SELECT indexname::text FROM pg_indexes WHERE indexname IN"
        " ('encryption_vaults_user_id_idx', 'encryption_vault_audit_user_id_idx')"
    )
    assert left == []


async def test_stricter_pair_check_holds_for_old_tables(old: Database) -> None:
    done = old.psql(
        "postgres",
        "-c",
        "UPDATE auth.encryption_vaults SET recovery_iv = NULL WHERE user_id = 'vec-012'",
    )
    assert 'violates check constraint "encryption_vaults_wrap_iv_pair"' in done.stderr


@pytest.mark.prove
async def test_form_from_before_recovery_wraps(
    empty: Database, issuer: Issuer, tmp_path: Path
) -> None:
    audit = await move(empty, older=True)
    async with (
        daemon_here(empty, issuer, tmp_path, **ACCEPTS) as running,
        client_session() as session,
    ):
        for row in OPEN:
            client = Client(running, session, row["user_id"])
            assert (await client.key()).json["masterKey"] == row["master_key"]
            status = (await client.status()).json
            assert (status["hasRecoveryWrap"], status["zeroKnowledge"]) == (False, False)
        client = Client(running, session, "vec-000")
        wrap = WITH_CODE[0]
        assert (
            await client.set_recovery(wrap["recovery_wrapped_mk"], wrap["recovery_iv"])
        ).status == 200
        assert (await client.enable_zk()).status == 200
        assert (await client.key()).json["requiresRecoveryCode"] is True
        assert await empty.fetch(AUDIT) == audit


@pytest.mark.prove
async def test_swapped_wraps_are_told_once_rows_are_sealed(old: Database, device: Device) -> None:
    """Format 1 is not bound to its user; from the first change on all of it is."""
    first, second = [row["user_id"] for row in OPEN if row["recovery_code"]][:2]
    for user in (first, second):
        assert (await device(user).clear_recovery()).status == 200
    await old.execute(
        "UPDATE auth.encryption_vaults AS a SET wrapped_mk = b.wrapped_mk, wrap_iv = b.wrap_iv"
        " FROM auth.encryption_vaults AS b WHERE a.user_id = $1 AND b.user_id = $2",
        first,
        second,
    )
    answer = await device(first).key()
    assert (answer.status, answer.code) == (500, "ROW_TAMPERED")
    assert "masterKey" not in answer.json
