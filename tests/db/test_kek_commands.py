"""``custody kek list``, ``custody kek retire`` and ``custody kek generate``."""

import asyncio
import base64
import json
import os
import re
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from custody.keks import generate
from tests.db.command import Done, custody
from tests.db.data_keys import add as add_data_key
from tests.db.data_keys import add_sealed_row
from tests.db.kek_registry import REWRAP, add_row, register, retire, states
from tests.db.old_service import KEK, move
from tests.db.psql import psql
from tests.leaks import remember
from tests.ports import free_port
from tests.servers import Database
from tests.unit.children import python

SETTINGS = {
    "CUSTODY_KEK": "env:NOW?id=now",
    "CUSTODY_OLD_KEKS": "env:OLD?id=old",
    "NOW": KEK,
    "OLD": base64.b64encode(b"\x33" * 32).decode(),
}
DAY = r"\d{4}-\d\d-\d\d"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
UNSEEN = "custody: rows could not be counted: CUSTODY_REWRAP_DATABASE_URL is not set"


@pytest.fixture
async def environ(database: Database) -> dict[str, str]:
    """``now`` is active and wraps alice's row; ``old`` wraps bob's and carol's; ``gone`` is
    retired; ``stray`` wraps zed's row and nobody has registered it."""
    await register(database, "old", "f0")
    await register(database, "gone", "f1")
    await register(database, "now", "f2", active=True)
    for user, kek_id in (("alice", "now"), ("bob", "old"), ("carol", "old"), ("zed", "stray")):
        await add_row(database, user, kek_id)
    await add_row(database, "zoe", "gone", wrap=None)
    await database.execute(
        "UPDATE auth.encryption_vaults SET format_version = 2 WHERE user_id <> 'bob';"
        "UPDATE auth.encryption_vaults SET quarantined_at = now() WHERE user_id = 'carol'"
    )
    assert await retire(database, "gone") == "retired"
    return SETTINGS | {"CUSTODY_REWRAP_DATABASE_URL": database.url("custody_rewrap")}


async def run(environ: Mapping[str, str], *arguments: str) -> Done:
    done = await asyncio.to_thread(custody, environ, "kek", *arguments)
    for secret in ("NOW", "OLD"):
        assert (environ.get(secret) or "\0") not in done.out + done.err
    return done


def lines_of(done: Done) -> list[list[str]]:
    """Return the cells of the table, whose columns are two spaces apart."""
    return [re.split(r" {2,}", line) for line in done.out.splitlines()]


# ── list ──────────────────────────────────────────────────────────────────────


@pytest.mark.prove
async def test_table(environ: dict[str, str]) -> None:
    done = await run(environ, "list")
    assert (done.code, done.err) == (0, "")
    head, *lines = lines_of(done)
    assert head == ["KEK_ID", "STATE", "ROWS", "LEGACY", "ASIDE", "DATA KEYS", "SINCE", "HERE"]
    shown = [[re.sub(DAY, "DAY", cell) for cell in line] for line in lines]
    assert shown == [
        ["old", "decrypt-only", "2", "2", "1", "0", "DAY", "yes"],
        ["gone", "retired", "0", "0", "0", "0", "DAY", "no"],
        ["now", "active", "1", "1", "0", "0", "DAY", "yes"],
        ["stray", "unregistered", "1", "1", "0", "0", "-", "no"],
    ]


LONG_IDS = (
    "aws-kms:arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/mrk-1234abcd12ab34cd56ef1234567890ab",
    "aws-kms:arn:aws:kms:ap-northeast-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "vault:teams/payments/transit/mana-production-eu-central-1:v12",
    "systemd-kek-2027",
)


@pytest.mark.prove
@pytest.mark.parametrize("columns", ["", "80", "60"])
async def test_table_fits_a_terminal(database: Database, columns: str) -> None:
    """With ids as long as those of a KMS are; and as long ones as a row can have."""
    for number, kek_id in enumerate(LONG_IDS):
        await register(database, kek_id, f"f{number}")
        await add_row(database, f"user-{number}", kek_id)
    await add_row(database, "anybody", endless := "x" * 500)
    url = {"CUSTODY_REWRAP_DATABASE_URL": database.url("custody_rewrap"), "MANA_AUTH_KEK": KEK}
    done = await run(url | {"COLUMNS": columns}, "list")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    aws, arn, vault, systemd = LONG_IDS
    assert [line for line in lines if not line.startswith(" ")][1:] == [
        f"{aws[:38]}...{aws[-39:]}",
        f"{arn[:38]}...{arn[-39:]}",
        vault,
        next(line for line in lines if line.startswith(f"{systemd}  decrypt-only ")),
        f"{'x' * 38}...{'x' * 39}",
    ]
    assert sum(line.strip().startswith(("decrypt-only", "unregistered")) for line in lines) == 4
    wide = (await run(url | {"COLUMNS": "200"}, "list")).out.splitlines()
    assert wide[1].startswith(f"{aws}  decrypt-only ")
    listed = json.loads((await run(url, "list", "--json")).out)
    assert [one["kek_id"] for one in listed] == [*LONG_IDS, endless]


@pytest.mark.prove
async def test_json(environ: dict[str, str]) -> None:
    done = await run(environ, "list", "--json")
    listed: list[dict[str, Any]] = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert [one["kek_id"] for one in listed] == ["old", "gone", "now", "stray"]
    times = [listed[0].pop("recorded_at"), listed[1]["retired_at"], listed[2]["activated_at"]]
    assert all(re.fullmatch(TIME, time) for time in times)
    assert listed[0] == {
        "kek_id": "old",
        "state": "decrypt-only",
        "backend": "env",
        "locator": "env:old",
        "rows": 2,
        "legacy_rows": 2,
        "format_1_rows": 1,
        "quarantined_rows": 1,
        "data_keys": [],
        "data_key_rows": {},
        "activated_at": None,
        "retired_at": None,
        "retirement": None,
        "configured": True,
        "second": False,
    }


@pytest.mark.prove
async def test_without_the_rewrap_role_rows_are_not_counted(
    environ: dict[str, str], database: Database
) -> None:
    del environ["CUSTODY_REWRAP_DATABASE_URL"]
    environ["CUSTODY_DATABASE_URL"] = database.url("custody_app")
    done = await run(environ, "list")
    assert (done.code, done.err) == (0, f"{UNSEEN}\n")
    lines = lines_of(done)[1:]
    assert [line[0] for line in lines] == ["old", "gone", "now", "stray"]
    assert {tuple(line[2:5]) for line in lines} == {("?", "?", "?")}
    listed = json.loads((await run(environ, "list", "--json")).out)
    assert {one["rows"] for one in listed} == {None}


@pytest.mark.prove
@pytest.mark.parametrize(
    ("name", "value"),
    [("NOW", ""), ("CUSTODY_KEK", "pgp:KEY"), ("CUSTODY_OLD_KEKS", "env:NOWHERE?id=old")],
)
async def test_list_comes_without_the_keks(environ: dict[str, str], name: str, value: str) -> None:
    done = await run(environ | {name: value}, "list")
    assert done.code == 0
    assert done.complaint.startswith("what is configured here could not be seen: KEK ")
    assert {line[-1] for line in lines_of(done)[1:]} == {"?"}
    listed = json.loads((await run(environ | {name: value}, "list", "--json")).out)
    assert {one["configured"] for one in listed} == {None}


@pytest.mark.prove
async def test_list_comes_while_a_kms_is_down(environ: dict[str, str]) -> None:
    kms = {
        "CUSTODY_OLD_KEKS": "env:OLD?id=old vault:transit/mana",
        "VAULT_ADDR": f"http://127.0.0.1:{free_port()}",
        "VAULT_TOKEN": "t",
    }
    done = await run(environ | kms, "list")
    assert done.code == 0
    assert done.complaint.startswith("what vault:transit/mana holds could not be asked: ")
    assert [line[-1] for line in lines_of(done)[1:]] == ["yes", "no", "yes", "no"]


@pytest.mark.prove
async def test_list_of_a_kms_that_hangs(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        kms = {
            "CUSTODY_OLD_KEKS": "env:OLD?id=old vault:transit/mana",
            "VAULT_ADDR": f"http://127.0.0.1:{hanging.getsockname()[1]}",
            "VAULT_TOKEN": "t",
        }
        done = await asyncio.to_thread(custody, environ | kms, "kek", "list", seconds=20)
    assert done.code == 0
    assert "vault:transit/mana" in done.complaint


@pytest.mark.prove
async def test_rows_of_the_old_service(empty: Database) -> None:
    await move(empty)
    url = {"CUSTODY_REWRAP_DATABASE_URL": empty.url("custody_rewrap")}
    done = await run({**url, "MANA_AUTH_KEK": KEK}, "list")
    assert (done.code, done.err) == (0, "")
    assert lines_of(done)[1:] == [["env-v1", "unregistered", "18", "18", "0", "0", "-", "yes"]]


@pytest.mark.prove
async def test_data_keys_are_listed(environ: dict[str, str], database: Database) -> None:
    key = await add_data_key(database, "now")
    lines = (await run(environ, "list")).out.splitlines()
    tree = [re.sub(TIME, "TIME", line) for line in lines[-2:]]
    assert tree == ["now", f"  data key {key} since TIME: wraps 0 rows"]
    assert [re.split(r" {2,}", line)[5] for line in lines[1:-2]] == ["0", "0", "1", "0"]
    listed = json.loads((await run(environ, "list", "--json")).out)
    assert [one["data_keys"] for one in listed] == [[], [], [key], []]
    assert [one["data_key_rows"] for one in listed] == [{}, {}, {key: 0}, {}]
    await add_sealed_row(database, "mia", "s", key)
    assert (await run(environ, "list")).out.splitlines()[-1].endswith(": wraps 1 rows")
    listed = json.loads((await run(environ, "list", "--json")).out)
    assert [one["data_key_rows"] for one in listed] == [{}, {}, {key: 1}, {}]
    await database.execute("DELETE FROM auth.encryption_vaults WHERE user_id = 'mia'")
    await database.execute("UPDATE auth.encryption_data_keys SET lost_at = now()")
    await database.execute("DELETE FROM auth.encryption_data_key_wraps")
    tree = [re.sub(TIME, "TIME", line) for line in (await run(environ, "list")).out.splitlines()]
    assert tree[-2:] == [
        "under no KEK",
        f"  data key {key} since TIME, lost since TIME: wraps 0 rows",
    ]


@pytest.mark.prove
async def test_empty_list(database: Database) -> None:
    url = {"CUSTODY_REWRAP_DATABASE_URL": database.url("custody_rewrap"), "MANA_AUTH_KEK": KEK}
    assert len(lines_of(await run(url, "list"))) == 1
    assert json.loads((await run(url, "list", "--json")).out) == []


@pytest.mark.prove
async def test_what_a_row_says_does_not_steer_the_terminal(
    environ: dict[str, str], database: Database
) -> None:
    await database.execute("UPDATE auth.encryption_vaults SET kek_id = E'\\x1b[2Jno'")
    done = await run(environ, "list")
    assert "?[2Jno" in done.out
    assert "\x1b" not in done.out


def on_a_full_disk(environ: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    """Run a command whose standard output takes nothing; return its exit code and what it said."""
    with Path("/dev/full").open("wb") as full:
        done = python("-m", "custody", *arguments, out=full.fileno(), environ=dict(environ))
    return done.returncode, done.stderr


@pytest.mark.prove
@pytest.mark.parametrize("options", [(), ("--json",)])
async def test_list_on_a_full_disk(environ: dict[str, str], options: tuple[str, ...]) -> None:
    code, said = await asyncio.to_thread(on_a_full_disk, environ, "kek", "list", *options)
    assert code == 74
    assert said.startswith("custody: standard output could not be written: No space left on device")
    assert len(said.splitlines()) == 1


# ── retire ────────────────────────────────────────────────────────────────────


REFUSALS = {
    "old": ("in-use", 2, "old still wraps 2 rows; re-wrap them under another KEK first"),
    "now": (
        "active",
        0,
        (
            "now is what the daemon stamps on new keys; set CUSTODY_KEK to another KEK and "
            "restart first"
        ),
    ),
    "nothing": (
        "unknown",
        0,
        (
            "nothing is unknown: no KEK is recorded by this id, and no row names it; see: custody "
            "kek list"
        ),
    ),
}


@pytest.mark.prove
async def test_retire_refuses_a_kek_of_data_keys(
    environ: dict[str, str], database: Database
) -> None:
    await register(database, "idle", "f3")
    await add_data_key(database, "idle")
    done = await run(environ, "retire", "idle", "--json")
    assert (done.code, json.loads(done.out)["outcome"]) == (1, "data-keys")
    assert done.complaint == "data keys are still wrapped under idle: custody rewrap run"


@pytest.mark.prove
@pytest.mark.parametrize("kek_id", REFUSALS)
async def test_retire_refuses(environ: dict[str, str], database: Database, kek_id: str) -> None:
    outcome, rows, message = REFUSALS[kek_id]
    environ |= {"CUSTODY_KEK": "env:NOW?id=next", "CUSTODY_OLD_KEKS": ""}
    before = await states(database)
    done = await run(environ, "retire", kek_id)
    assert (done.code, done.out, done.complaint) == (1, "", message)
    done = await run(environ, "retire", kek_id, "--json")
    assert (done.code, done.complaint) == (1, message)
    said = {"kek_id": kek_id, "outcome": outcome, "rows": rows}
    assert json.loads(done.out) == said | {"retirement": None}
    assert await states(database) == before


@pytest.mark.prove
async def test_retire(environ: dict[str, str], database: Database) -> None:
    await register(database, "idle", "f3")
    before = await states(database)
    done = await run(environ, "retire", "idle")
    message = "idle is retired: nothing can be wrapped under it again"
    seen = [
        "seen then: 0 rows under it, 0 of them set aside",
        "  no run",
        "  no deep run: whoever had this KEK may know the data key that rows are sealed with",
        "  no live daemon",
    ]
    assert (done.code, done.out.splitlines(), done.err) == (0, [message, *seen], "")
    assert await states(database) == before | {"idle": "retired"}
    rewrap = REWRAP.replace("$1", "'idle'").replace("$2", "'alice'")
    assert "KEK01" in psql(database, "custody_rewrap", rewrap)
    again = await run(environ, "retire", "idle")
    # What was seen is kept.
    assert (again.code, again.out.splitlines()) == (0, ["idle was retired before", *seen])
    again = await run(environ, "retire", "idle", "--json")
    report = {"rows": 0, "quarantined": 0, "data_keys": 0, "instances": []}
    report |= {"last_run": None, "last_deep": None}
    said = {"kek_id": "idle", "outcome": "already-retired", "rows": 0}
    assert json.loads(again.out) == said | {"retirement": report}


@pytest.mark.prove
async def test_what_is_stamped_here_is_not_retired(
    environ: dict[str, str], database: Database
) -> None:
    """Even where the database does not know it as the active one: no daemon has run with it yet."""
    await register(database, "next", "f3")
    done = await run(environ | {"CUSTODY_KEK": "env:NOW?id=next"}, "retire", "next")
    assert (done.code, done.out) == (1, "")
    assert done.complaint == (
        "next is what env:NOW?id=next stamps on new keys; set CUSTODY_KEK to another KEK and "
        "restart first"
    )
    assert (await states(database))["next"] == "decrypt-only"


@pytest.mark.prove
async def test_retire_where_no_kek_is_configured(
    environ: dict[str, str], database: Database
) -> None:
    """As on an administrator's host: what the database knows is enough, and the rest is said."""
    await register(database, "idle", "f3")
    url = {"CUSTODY_REWRAP_DATABASE_URL": environ["CUSTODY_REWRAP_DATABASE_URL"]}
    done = await run(url, "retire", "idle")
    assert (done.code, (await states(database))["idle"]) == (0, "retired")
    assert done.complaint.startswith("what is configured here could not be seen: ")


@pytest.mark.prove
async def test_retire_while_something_is_being_written(
    environ: dict[str, str], database: Database
) -> None:
    await register(database, "idle", "f3")
    async with database.connect("custody_rewrap") as writer, writer.transaction():
        await writer.execute(REWRAP, "idle", "alice")
        done = await run(environ, "retire", "idle")
    assert done.code == 75
    assert done.complaint == (
        "nothing was done: something is just being written under idle; try again"
    )
    assert (await states(database))["idle"] == "decrypt-only"


# ── forget ────────────────────────────────────────────────────────────────────


@pytest.fixture
def owned(environ: dict[str, str], database: Database) -> dict[str, str]:
    """The same, with the owner's URL alone."""
    del environ["CUSTODY_REWRAP_DATABASE_URL"]
    return environ | {"CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner")}


@pytest.mark.prove
async def test_forget(owned: dict[str, str], database: Database) -> None:
    await register(database, "planted", "f3")
    before = await states(database)
    unsure = await run(owned, "forget", "planted")
    assert (unsure.code, unsure.out) == (2, "")
    assert "--yes" in unsure.err
    assert await states(database) == before
    done = await run(owned, "forget", "planted", "--yes")
    assert (done.code, done.out, done.err) == (0, "the record of planted was removed\n", "")
    del before["planted"]
    assert await states(database) == before
    again = await run(owned, "forget", "planted", "--yes", "--json")
    assert (again.code, json.loads(again.out)) == (1, {"id": "planted", "outcome": "unknown"})
    assert again.complaint == "nothing is recorded of planted; see: custody kek list"
    key = await add_data_key(database, "stray")
    done = await run(owned, "forget", key, "--yes", "--json")
    assert (done.code, json.loads(done.out)) == (0, {"id": key, "outcome": "forgotten"})


@pytest.mark.prove
async def test_forget_refuses(owned: dict[str, str], database: Database) -> None:
    key = await add_data_key(database, "next")
    await register(database, "next", "f3")
    await database.execute("UPDATE auth.encryption_vaults SET seal = $1", f"1.{key}.00")
    for record, outcome, message in (
        ("old", "in-use", "rows carry it"),
        (key, "in-use", "rows carry it"),
        ("next", "data-keys", "data keys are wrapped under it"),
    ):
        done = await run(owned, "forget", record, "--yes", "--json")
        assert (done.code, json.loads(done.out)) == (1, {"id": record, "outcome": outcome})
        assert done.complaint == f"{record} was not removed: {message}"


@pytest.mark.prove
async def test_forget_needs_the_owner(owned: dict[str, str], database: Database) -> None:
    variable = "CUSTODY_OWNER_DATABASE_URL"
    done = await run(owned | {variable: ""}, "forget", "old", "--yes")
    assert (done.code, done.out) == (78, "")
    assert done.complaint.startswith(f"{variable} must be set")
    for role in ("custody_app", "custody_rewrap"):
        done = await run(owned | {variable: database.url(role)}, "forget", "old", "--yes")
        assert (done.code, done.out) == (78, "")
        assert "must be the owner of the schema" in done.complaint


async def test_forget_in_a_database_that_is_not_migrated(
    owned: dict[str, str], empty: Database
) -> None:
    url = {"CUSTODY_OWNER_DATABASE_URL": empty.url("custody_owner")}
    done = await run(owned | url, "forget", "old", "--yes")
    assert (done.code, done.out) == (78, "")
    assert "custody migrate" in done.complaint


@pytest.mark.prove
async def test_forget_while_something_is_being_written(
    owned: dict[str, str], database: Database
) -> None:
    await register(database, "idle", "f3")
    async with database.connect("custody_rewrap") as writer, writer.transaction():
        await writer.execute(REWRAP, "idle", "alice")
        done = await run(owned, "forget", "idle", "--yes")
    assert (done.code, done.out) == (1, "")
    assert done.complaint == (
        "nothing was removed: something is just being written under idle; try again"
    )
    assert (await states(database))["idle"] == "decrypt-only"


# ── what can't be asked ───────────────────────────────────────────────────────


@pytest.mark.prove
@pytest.mark.parametrize("command", [("list",), ("retire", "old")])
async def test_refused(environ: dict[str, str], database: Database, command: Any) -> None:
    good = environ["CUSTODY_REWRAP_DATABASE_URL"]
    port = f":{database.server.port}"
    cases = {
        database.url("custody_app"): (78, "is not custody_rewrap nor a member of it"),
        database.url("postgres"): (78, "the role postgres is superuser"),
        good.replace("custody_rewrap:", "custody_rewrap:wrong"): (78, "password authentication"),
        good.replace("/test_", "/absent_"): (78, "does not exist"),
        good.replace(port, ":port"): (78, "CUSTODY_REWRAP_DATABASE_URL: "),
        good.replace(port, f":{free_port()}"): (69, "no connection to the database"),
        "mysql://h/d": (78, "write postgresql://"),
    }
    for url, (code, phrase) in cases.items():
        done = await run(environ | {"CUSTODY_REWRAP_DATABASE_URL": url}, *command)
        assert (done.code, done.out) == (code, ""), url
        assert done.complaint.startswith("CUSTODY_REWRAP_DATABASE_URL: ")
        assert phrase in done.complaint
        assert good.split(":")[2].split("@")[0] not in done.err


@pytest.mark.prove
async def test_unsafe_database_is_refused(environ: dict[str, str], database: Database) -> None:
    await database.execute("DROP POLICY encryption_vaults_kek_sample ON auth.encryption_vaults")
    for command in (("list",), ("retire", "old")):
        done = await run(environ, *command)
        assert done.code == 78
        assert "the policy encryption_vaults_kek_sample is missing" in done.complaint


async def test_without_a_url(environ: dict[str, str], database: Database) -> None:
    del environ["CUSTODY_REWRAP_DATABASE_URL"]
    listed = await run(environ, "list")
    assert (listed.code, listed.complaint) == (
        78,
        (
            "CUSTODY_REWRAP_DATABASE_URL or CUSTODY_DATABASE_URL must be set: PostgreSQL, as a "
            "runtime role"
        ),
    )
    environ["CUSTODY_DATABASE_URL"] = database.url("custody_app")
    retired = await run(environ, "retire", "old")
    assert (retired.code, retired.complaint) == (
        78,
        (
            "CUSTODY_REWRAP_DATABASE_URL must be set: PostgreSQL, as a login role that is "
            "custody_rewrap or a member of it"
        ),
    )


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("custody kek retire ", {"now", "old", "gone", "stray"}),
        ("custody kek retire o", {"old"}),
        ("custody kek forget s", {"stray"}),
    ],
)
async def test_a_shell_completes_the_ids(
    environ: dict[str, str], typed: str, offered: set[str]
) -> None:
    prompt = {"_CUSTODY_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": "3"}
    done = await asyncio.to_thread(custody, environ | prompt)
    assert {line.partition(",")[2] for line in done.out.splitlines()} == offered
    assert done.err == ""


# ── generate ──────────────────────────────────────────────────────────────────


def loads(uri: str, environ: dict[str, str]) -> bool:
    """Say whether a KEK can be used, asked by the doctor."""
    done = custody({**environ, "CUSTODY_KEK": uri}, "doctor", "--json")
    return (f"kek {uri}", "ok") in {(one["part"], one["verdict"]) for one in json.loads(done.out)}


def test_generate_prints_a_key() -> None:
    first, second = (custody({}, "kek", "generate") for _ in range(2))
    assert first.code == 0
    key = remember(first.out.strip())
    assert remember(second.out.strip()) != key
    assert len(base64.b64decode(key, validate=True)) == 32
    assert key not in first.err
    assert "CUSTODY_KEK=systemd:NAME" in first.err
    assert "CUSTODY_KEK=env:NAME?id=ID" in first.err
    assert loads("env:FRESH", {"FRESH": key})
    shown = json.loads(custody({}, "kek", "generate", "--json").out)
    assert len(base64.b64decode(remember(shown.pop("key")))) == 32
    assert shown == {}


def test_generate_writes_a_file(tmp_path: Path) -> None:
    file = tmp_path / "kek"
    umask = os.umask(0o777)
    try:
        done = custody({}, "kek", "generate", "--output", str(file), "--json")
    finally:
        os.umask(umask)
    assert (done.code, json.loads(done.out)) == (0, {"file": str(file)})
    assert file.stat().st_mode & 0o7777 == 0o600
    key = remember(file.read_text().strip())
    assert key not in done.out + done.err
    assert f"NAME_FILE={file}" in done.err
    assert loads("env:FRESH", {"FRESH_FILE": str(file)})
    assert loads("systemd:kek", {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_generate_writes_raw_bytes(tmp_path: Path) -> None:
    done = custody({}, "kek", "generate", "--output", str(tmp_path / "kek"), "--raw")
    assert (done.code, done.out) == (0, f"wrote {tmp_path / 'kek'}\n")
    assert len((tmp_path / "kek").read_bytes()) == 32
    assert "env:" not in done.err
    assert loads("systemd:kek", {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_generate_never_overwrites(tmp_path: Path) -> None:
    there, link = tmp_path / "there", tmp_path / "link"
    there.write_text("precious")
    link.symlink_to(tmp_path / "elsewhere")
    for path, reason in (
        (there, "File exists"),
        (link, "File exists"),
        (tmp_path / "no" / "kek", "No such file or directory"),
    ):
        done = custody({}, "kek", "generate", "--output", str(path))
        assert (done.code, done.out) == (1, "")
        assert done.complaint == f"no key was written to {path}: {reason}; name a new file"
    assert there.read_text() == "precious"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link", "there"]


def test_generate_raw_needs_a_file() -> None:
    done = custody({}, "kek", "generate", "--raw")
    assert (done.code, done.out) == (2, "")
    assert "--raw needs --output FILE" in done.err


def test_a_file_that_was_begun_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        generate.write_new(tmp_path / "kek", b"x")
    assert list(tmp_path.iterdir()) == []


def test_the_zero_key_is_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = iter([bytes(32), bytes(32), b"\x01" * 32])
    monkeypatch.setattr(secrets, "token_bytes", lambda _size: next(made))
    assert generate.random_key() == b"\x01" * 32
