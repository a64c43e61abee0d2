"""``custody verify``: what does not open is named, and nothing else."""

import asyncio
import json
import secrets
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from custody.datakeys.envelope import UserKeyring
from custody.datakeys.ring import Ring
from custody.verify.report import NAMED
from custody.verify.rows import PAGE, RowReader
from custody.verify.verification import Verification
from kek_backends.keyring import Keyring
from tests.audit_log import AuditLog
from tests.bindings import of
from tests.db.command import Command, Done, custody
from tests.db.connecting import engine_of
from tests.db.kek_registry import register
from tests.ports import free_port
from tests.rewrap.kit import KEKS, NEW, OLD, CountingKek, fill, make_format_1, new_kek, old_kek
from tests.sealed_rows import data_key_of, past_triggers, reseal
from tests.servers import Database

BOTH = {"CUSTODY_KEK": NEW, "CUSTODY_OLD_KEKS": OLD, **KEKS}
SET = "UPDATE auth.encryption_vaults SET {} WHERE user_id = $1"
OTHER_KEY = "dk-01932e00000070008000000000000009"
# Each is done to one row in a thousand; what the row is named for.
DAMAGES: dict[str, tuple[str, str]] = {
    "user-000017": ("seal = left(seal, 38) || reverse(substr(seal, 39))", "seal"),
    "user-000117": ("generation = generation + 1", "seal"),
    "user-000217": (f"seal = '1.{OTHER_KEY}.' || substr(seal, 39)", "seal"),
    "user-000317": ("seal = 'nothing of the kind'", "seal"),
    "user-000417": ("wrapped_mk = reverse(wrapped_mk)", "wrap"),
    "user-000517": ("format_version = 2", "format"),
    "user-000617": ("kek_id = 'env-gone'", "kek_missing"),
    "user-000717": ("seal = NULL", "legacy"),
    "user-000817": ("wrapped_mk = other.wrapped_mk, wrap_iv = other.wrap_iv", "wrap"),
}


async def verify(database: Database, *words: str, role: str = "owner", **changes: str) -> Done:
    url = database.url(f"custody_{role}")
    variable = "OWNER" if role == "owner" else "AUDIT"
    environ = {**BOTH, f"CUSTODY_{variable}_DATABASE_URL": url, **changes}
    return await asyncio.to_thread(custody, environ, "verify", *words)


async def found(database: Database, *words: str, **changes: str) -> dict[str, Any]:
    """Return what JSON says, and see that text and exit code say the same."""
    done = await verify(database, "--json", *words, **changes)
    said: dict[str, Any] = json.loads(done.out)
    assert done.code == (1 if said["findings"] else 0 if said["good"] else 69), done.err
    return said


def named(said: dict[str, Any]) -> dict[str, str]:
    return {user: one["kind"] for one in said["findings"] for user in one["users"]}


async def damage(database: Database) -> dict[str, str]:
    """Damage rows in all ways there are; return who is to be named, and for what."""
    async with past_triggers(database) as superuser:
        for user, (change, _) in DAMAGES.items():
            sql = SET.format(change)
            if "other." in change:
                sql = sql.replace(" WHERE user_id", " FROM auth.encryption_vaults AS other WHERE")
                sql = sql.replace("= $1", "encryption_vaults.user_id = $1")
                sql += " AND other.user_id = 'user-000001'"
            await superuser.execute(sql, user)
        wrap = await old_kek().wrap(of("user-000917"), secrets.token_bytes(32))
        columns = "wrapped_mk = $2, wrap_iv = $3"
        await superuser.execute(SET.format(columns), "user-000917", wrap.wrapped_mk, wrap.wrap_iv)
        await superuser.execute(
            SET.format(
                "wrapped_mk = NULL, wrap_iv = NULL, zero_knowledge = true,"
                " recovery_wrapped_mk = 'r', recovery_iv = 'i'"
            ),
            "user-000999",
        )
    await reseal(database, await data_key_of(database, old_kek()), "user-000999")
    kinds = {user: kind for user, (_, kind) in DAMAGES.items()}
    return kinds | {"user-000917": "key_check", "user-000999": "recovery"}


@pytest.mark.prove
async def test_each_kind_of_damage_is_named_and_nothing_else(database: Database) -> None:
    await fill(database, 1000)
    await fill(database, 20, kek=new_kek(), prefix="new")
    said = await found(database, "--all")
    assert (said["good"], said["rows"], said["looked_at"], said["open"]) == (True, *[1020] * 3)
    expected = await damage(database)
    said = await found(database, "--all")
    assert named(said) == expected
    assert said["counts"] == Counter(expected.values())
    assert (said["looked_at"], said["open"]) == (1020, 1020 - len(expected))
    done = await verify(database, "--all")
    assert done.code == 1
    rows = {line.split(":")[0] for line in done.out.splitlines() if line.startswith("user ")}
    of_rows = {"seal", "wrap", "format", "key_check", "recovery"}
    assert rows == {f"user {user}" for user, kind in expected.items() if kind in of_rows}
    assert "a row names the KEK env-gone" in done.out


@pytest.mark.prove
async def test_a_kek_is_missing(database: Database) -> None:
    """One finding for all of its rows."""
    await data_key_of(database, new_kek())
    await fill(database, 1000)
    await fill(database, 20, kek=new_kek(), prefix="new")
    said = await found(database, "--all", CUSTODY_OLD_KEKS="")
    (finding,) = said["findings"]
    assert (finding["kind"], finding["about"], finding["rows"]) == ("kek_missing", "env-v1", 1000)
    assert len(finding["users"]) == NAMED
    assert (said["looked_at"], said["open"]) == (1020, 20)
    done = await verify(database, "--all", CUSTODY_OLD_KEKS="")
    assert "configure it again: 1000 of the rows looked at" in done.out
    assert "user user-" not in done.out


async def test_the_kek_of_the_data_key_is_missing(database: Database) -> None:
    await fill(database, 10)
    said = await found(database, "--all", CUSTODY_OLD_KEKS="")
    (finding,) = said["findings"]
    assert (finding["kind"], finding["about"], finding["rows"]) == ("kek_missing", "env-v1", 10)
    assert "list the KEK of env-v1 in CUSTODY_OLD_KEKS" in finding["message"]


@pytest.mark.prove
async def test_half_a_backup(database: Database) -> None:
    """The data keys were left out."""
    await fill(database, 10)
    await database.execute("DELETE FROM auth.encryption_data_keys")
    (finding,) = (await found(database, "--all"))["findings"]
    assert (finding["kind"], finding["rows"]) == ("data_key", 10)
    assert "restore auth.encryption_data_keys" in finding["message"]


@pytest.mark.prove
@pytest.mark.parametrize("on_record", [True, False], ids=["on record", "never recorded"])
async def test_another_key_under_the_same_name(database: Database, on_record: bool) -> None:
    await fill(database, 10)
    if on_record:
        await register(database, "env-v1", old_kek().fingerprint("env-v1") or "")
    (finding,) = (
        await found(database, "--all", OLD=KEKS["NEW"], CUSTODY_KEK=OLD, CUSTODY_OLD_KEKS="")
    )["findings"]
    assert finding["rows"] == 10
    if on_record:
        assert (finding["kind"], finding["about"]) == ("kek_other", "env-v1")
        assert "the kek_id env-v1 stands for other key material" in finding["message"]
    else:
        assert finding["kind"] == "data_key"
        assert "does not open under the KEK of env-v1" in finding["message"]


async def test_no_kek_is_configured(database: Database) -> None:
    await fill(database, 1)
    done = await verify(database, CUSTODY_KEK="", CUSTODY_OLD_KEKS="", NEW="", OLD="")
    assert (done.code, done.out) == (78, "")
    assert "MANA_AUTH_KEK" in done.complaint


@pytest.mark.prove
async def test_rows_that_were_never_sealed(database: Database) -> None:
    ledger = await fill(database, 10)
    await make_format_1(database, ledger)
    (finding,) = (await found(database, "--all"))["findings"]
    assert (finding["kind"], finding["rows"]) == ("legacy", 10)
    said = await found(database, "--all", CUSTODY_LEGACY_ROWS="accept")
    assert (said["good"], said["open"]) == (True, 10)
    assert "10 rows were never sealed" in said["notices"][0]


@pytest.mark.prove
async def test_a_kms_is_away(database: Database) -> None:
    """69: nothing is known to be wrong; and it is not asked for each row."""
    await fill(database, 100)
    async with past_triggers(database) as superuser:
        await superuser.execute(
            "UPDATE auth.encryption_vaults SET kek_id = 'vault:transit/away:v1', wrap_iv = '',"
            " wrapped_mk = 'vault:v1:' || wrapped_mk WHERE user_id > 'user-000089'"
        )
    away = {
        "CUSTODY_OLD_KEKS": f"{OLD} vault:transit/away",
        "VAULT_ADDR": f"http://127.0.0.1:{free_port()}",
        "VAULT_TOKEN": "none",
    }
    said = await found(database, "--all", "--no-audit", **away)
    assert said["findings"] == []
    assert said["counts"] == {"kek_away": 10}
    assert said["unseen"][0].startswith("10 rows: ")
    assert said["open"] == 90


@pytest.mark.prove
async def test_ctrl_c(database: Database) -> None:
    """75; a KMS that does not answer holds up nothing."""
    await fill(database, 3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environ = {
            **BOTH,
            "CUSTODY_OLD_KEKS": f"{OLD} vault:transit/away",
            "VAULT_ADDR": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "VAULT_TOKEN": "none",
            "CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner"),
        }
        running = Command(environ, "verify", "--all", "--json")
        caller, _ = await asyncio.to_thread(silent.accept)
        with caller:
            running.process.send_signal(signal.SIGINT)
            done = await asyncio.to_thread(running.end)
    assert done.code == 75
    said = json.loads(done.out)
    assert (said["finished"], said["good"]) == (False, False)


async def test_what_was_seen_is_kept_when_it_is_stopped(database: Database) -> None:
    await fill(database, PAGE + 10)
    async with past_triggers(database) as superuser:
        await superuser.execute("UPDATE auth.encryption_vaults SET generation = generation + 1")
    stop, advanced = asyncio.Event(), []

    def advance(count: int) -> None:
        advanced.append(count)
        stop.set()

    async with engine_of(database.url("custody_owner")) as engine:
        ring = Ring(engine, Keyring(old_kek()), 3600, 86400)
        await ring.load()
        keyring = UserKeyring(Keyring(old_kek()), ring)
        verification = Verification(engine, keyring, ring, stop, legacy=False, advance=advance)
        report = await verification.run(None, 0)
    assert (report.is_finished, report.looked_at, report.good) == (False, PAGE, 0)
    assert [(one.count, len(one.users)) for one in report.findings] == [(PAGE, NAMED)]
    assert advanced == [PAGE]


class RemoteKek(CountingKek):
    """One that is asked as a KMS is."""

    @property
    def in_process(self) -> bool:
        return False


async def test_a_kms_is_asked_at_the_rate(database: Database) -> None:
    """One row a second: the last one waits for its turn until it is stopped."""
    await fill(database, 3)
    kek, stop = RemoteKek("env-v1", KEKS["OLD"]), asyncio.Event()
    async with engine_of(database.url("custody_owner")) as engine:
        ring = Ring(engine, Keyring(kek), 3600, 86400)
        await ring.load()
        keyring = UserKeyring(Keyring(kek), ring)
        verification = Verification(engine, keyring, ring, stop, legacy=False, rate=1)
        asyncio.get_running_loop().call_later(0.3, stop.set)
        report = await verification.run(None, 0)
    assert not report.is_finished
    assert report.looked_at < 3


LAST = "SELECT max(number) FROM auth.encryption_vault_audit"
NOTE = "SELECT note FROM auth.encryption_audit_checkpoints ORDER BY number DESC LIMIT 1"


@pytest.fixture
async def log(database: Database) -> AuditLog:
    """Rows, and an audit with six checkpoints."""
    await fill(database, 3)
    made = AuditLog(database)
    await made.grow(6, 4)
    return made


@pytest.mark.prove
async def test_an_audit_that_was_cut_off(log: AuditLog, tmp_path: Path) -> None:
    """With its checkpoints: one that was kept beside the backup shows it."""
    database, kept = log.database, tmp_path / "checkpoint"
    kept.write_text(await database.value(NOTE))
    words = "--checkpoint", str(kept)
    assert (await found(database, *words))["good"]
    await database.execute("DELETE FROM auth.encryption_audit_checkpoints WHERE number > 5")
    await database.execute("DELETE FROM auth.encryption_vault_audit WHERE number > 20")
    assert (await found(database))["good"]
    done = await verify(database, "--json", *words)
    said = json.loads(done.out)
    assert (done.code, said["findings"], said["good"]) == (1, [], False)
    assert said["audit"]["counts"] == {"history": 1}
    assert (await verify(database, "--no-audit")).code == 0


@pytest.mark.prove
async def test_audit_rows_that_were_deleted(log: AuditLog) -> None:
    await log.database.execute("DELETE FROM auth.encryption_vault_audit WHERE number = 6")
    done = await verify(log.database)
    assert done.code == 1
    lines = done.out.splitlines()
    assert "  rows 5 to 8, checkpoint 2: 1 rows are missing" in lines
    assert lines[-1].endswith("all of them open; but the audit is not as it was written")


@pytest.mark.prove
@pytest.mark.parametrize(("spread", "code"), [(0, 0), (1, 1)])
async def test_the_last_rows_of_a_copy(log: AuditLog, spread: int, code: int) -> None:
    """A copy has a tail that nobody seals: that is as it must be, unless it was one before."""
    await log.write(*(log.event() for _ in range(4)))
    await log.database.execute(
        "UPDATE auth.encryption_vault_audit SET created_at = created_at - interval '1 day'"
        " - make_interval(mins => number::integer * $1) WHERE number > 24",
        spread,
    )
    done = await verify(log.database, "--json")
    said = json.loads(done.out)
    assert (done.code, set(said["audit"]["counts"])) == (code, {"tail"} if code else set())
    if not code:
        assert (
            "4 rows are not under a checkpoint yet: the last before this copy, or new"
            in (said["audit"]["notices"])
        )


@pytest.mark.prove
async def test_a_sample(database: Database) -> None:
    await fill(database, 60)
    await fill(database, 5, kek=new_kek(), prefix="new")
    words = "--sample", "20", "--seed", "7", "--no-audit"
    said = await found(database, *words)
    keks = {one["kek_id"]: (one["rows"], one["looked_at"]) for one in said["keks"]}
    assert keks == {"env-v1": (60, 20), "env-v2": (5, 5)}
    assert (said["good"], said["seed"], said["rows"], said["looked_at"]) == (True, 7, 65, 25)
    done = await verify(database, "--no-audit")
    assert "65 of 65 rows looked at, chosen by --seed " in done.out


@pytest.mark.prove
async def test_each_row_is_as_likely_as_another(database: Database) -> None:
    await fill(database, 50)
    async with engine_of(database.url("custody_owner")) as engine:
        reader = RowReader(engine)
        chosen = [(await reader.choose(10, seed))[0].users for seed in range(200)]
        assert (await reader.choose(10, 7))[0].users == chosen[7]
    counted = Counter(user for users in chosen for user in users)
    # 40 are to be expected, with a standard deviation of 5.7.
    assert len(counted) == 50
    assert 12 < min(counted.values()) <= max(counted.values()) < 68


@pytest.mark.parametrize(
    "words",
    [("--all", "--sample", "3"), ("--all", "--seed", "3"), ("--sample", "0"), ("--rate", "-1")],
)
async def test_usage(database: Database, words: tuple[str, ...]) -> None:
    assert (await verify(database, *words)).code == 2
