"""``custody rewrap run`` and ``custody rewrap status``, as an operator runs them."""

import asyncio
import json
import re
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from custody.keks.instances import Instance, record
from tests.client import Client, client_session
from tests.datakeys import KEY_ID
from tests.db.command import Command, Done, custody
from tests.db.connecting import engine_of
from tests.db.kek_registry import register, retire, states
from tests.eventually import eventually
from tests.ports import free_port
from tests.rewrap.kit import (
    DAMAGE,
    KEKS,
    NEW,
    NEW_KEY,
    OLD,
    CountingKek,
    environ_of,
    fill,
    has_stored,
    keyring,
    new_kek,
    old_kek,
    opened,
    rewrap,
    rows_of,
    stamps,
)
from tests.servers import Database, daemon_here
from tests.tokens import Issuer

FAR = Instance(
    id="i1",
    host="far",
    process=7,
    writes_uri=NEW,
    writes_kek_id="env-v2",
    active_kek_id="env-v2",
    reads=(NEW, "env-v2", OLD, "env-v1"),
)
NEW_STAMP, OLD_STAMP = ("env-v2", 3), ("env-v1", 3)


def named(database: Database) -> str:
    return f"the database {database.name} at 127.0.0.1:{database.server.port}"


async def run(environ: Mapping[str, str], *arguments: str) -> Done:
    done = await asyncio.to_thread(custody, environ, "rewrap", *arguments)
    for secret in KEKS.values():
        assert secret not in done.out + done.err
    return done


async def instance(database: Database, **changes: Any) -> None:
    """Let a daemon say what it reads and writes."""
    async with engine_of(database.url("custody_app")) as engine:
        await record(engine, replace(FAR, **changes))


# ── run ───────────────────────────────────────────────────────────────────────


async def test_run(database: Database) -> None:
    ledger = await fill(database, 30)
    done = await run(environ_of(database), "run", "--batch", "7", "--verify", "all")
    assert done.code == 0, done.err
    events = [json.loads(line)["event"] for line in done.err.splitlines()]
    assert events == ["data_key_opened", "data_key_rewrapped", "data_key_wrap_dropped"]
    assert done.out == (
        "run 1 to env-v2: 30 re-wrapped, 0 changed by their users meanwhile, 0 set aside, "
        f"1 data key moved; in {named(database)}\n"
    )
    assert await opened(database, keyring()) == ledger
    assert await stamps(database) == {NEW_STAMP: 30}
    assert await states(database) == {"env-v2": "active", "env-v1": "decrypt-only"}
    again = await run(environ_of(database), "run", "--json")
    assert again.code == 0
    said = json.loads(again.out)
    assert (said["id"], said["state"], said["total"], said["unreadable"]) == (2, "done", 0, [])
    assert (said["data_keys"], said["problems"]) == ([], [])
    assert said["legacy_rows"] == {"wraps": 0, "zero_knowledge": 0}


@pytest.mark.prove
async def test_rows_that_are_set_aside(database: Database) -> None:
    await fill(database, 10)
    await database.execute(DAMAGE, ["user-000003"])
    done = await run(environ_of(database), "run")
    assert done.code == 1
    assert "9 re-wrapped, 0 changed by their users meanwhile, 1 set aside" in done.out
    assert done.complaint == (
        "1 rows were set aside: their wraps do not open. Restore them, or let their users rotate; "
        "to try them again: custody rewrap run --quarantined"
    )
    assert (await run(environ_of(database), "run")).code == 0
    assert (await run(environ_of(database), "run", "--quarantined")).code == 1
    await database.execute(DAMAGE, ["user-000003"])
    assert (await run(environ_of(database), "run", "--quarantined")).code == 0
    assert await stamps(database) == {NEW_STAMP: 10}


@pytest.mark.prove
async def test_a_users_rotate_lifts_the_quarantine(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    await fill(database, 2)
    await database.execute(DAMAGE, ["user-000001"])
    keks = {f"raw_{name}": value for name, value in KEKS.items()}
    async with (
        daemon_here(database, issuer, tmp_path, KEK=NEW, OLD_KEKS=OLD, **keks) as daemon,
        client_session() as session,
    ):
        assert (await run(environ_of(database), "run")).code == 1
        alice = Client(daemon, session, "user-000001")
        assert (await alice.key()).status == 500
        assert (await alice.rotate()).status == 200
        assert (await alice.key()).status == 200
    row = (await rows_of(database))["user-000001"]
    assert (row["quarantined_at"], row["quarantine_reason"]) == (None, None)


@pytest.mark.prove
async def test_rows_of_a_kek_that_is_not_configured(database: Database) -> None:
    await fill(database, 3)
    await fill(database, 2, kek=CountingKek("gone", NEW_KEY), prefix="lost")
    done = await run(environ_of(database), "run", "--json")
    assert done.code == 1
    assert json.loads(done.out)["unreadable"] == ["gone"]
    assert done.complaint == (
        "rows carry the kek_id gone, and no configured KEK holds it: list it in CUSTODY_OLD_KEKS"
    )
    assert await stamps(database) == {NEW_STAMP: 3, ("gone", 3): 2}


@pytest.mark.prove
async def test_dry_run_changes_nothing(database: Database) -> None:
    await fill(database, 8)
    await fill(database, 1, kek=CountingKek("gone", NEW_KEY), prefix="lost")
    await instance(database, reads=(OLD, "env-v1"))
    before = await rows_of(database)
    done = await run(environ_of(database), "run", "--dry-run")
    assert (done.code, done.out) == (
        0,
        f"9 rows and 1 data key to bring to env-v2, from env-v1, gone; in {named(database)}\n",
    )
    assert "list it in CUSTODY_OLD_KEKS" in done.err
    assert "can't read env:NEW?id=env-v2" in done.err
    done = await run(environ_of(database), "run", "--dry-run", "--json")
    assert json.loads(done.out) == {
        "rotation": "shallow",
        "target": "env-v2",
        "total": 9,
        "sources": ["env-v1", "gone"],
        "data_keys": [KEY_ID],
        "legacy_rows": {"wraps": 0, "zero_knowledge": 0},
    }
    assert await rows_of(database) == before
    for table in ("rewrap_runs", "rewrap_claims", "encryption_keks", "encryption_vault_audit"):
        assert await database.value(f"SELECT count(*) FROM auth.{table}") == 0  # noqa: S608


@pytest.mark.prove
async def test_dry_run_over_all(database: Database) -> None:
    await fill(database, 3, kek=new_kek())
    done = await run(environ_of(database), "run", "--dry-run", "--all")
    assert "custody: " not in done.err
    assert done.out == f"3 rows to bring to env-v2, from env-v2; in {named(database)}\n"
    done = await run(environ_of(database), "run", "--dry-run")
    assert done.out == f"0 rows to bring to env-v2; in {named(database)}\n"


@pytest.mark.prove
async def test_all(database: Database) -> None:
    ledger = await fill(database, 5, kek=new_kek())
    before = await rows_of(database)
    assert (await run(environ_of(database), "run", "--all")).code == 0
    after = await rows_of(database)
    assert all(after[user]["wrapped_mk"] != before[user]["wrapped_mk"] for user in ledger)
    assert await opened(database, keyring()) == ledger


@pytest.mark.prove
async def test_sigterm_and_on(database: Database) -> None:
    ledger = await fill(database, 200)
    running = Command(environ_of(database), "rewrap", "run", "--rate", "40")
    await has_stored(database)
    running.process.terminate()
    ended = await asyncio.to_thread(running.end)
    assert ended.code == 75, ended.err
    assert ended.complaint == ("stopped before the end, run it again: what was done is stored")
    done = (await stamps(database))[NEW_STAMP]
    assert 0 < done < 200
    status = (await run(environ_of(database), "status")).out.splitlines()
    assert status[0].startswith(f"run 1 stopped: {done} of 200 to env-v2, ")
    assert status[1] == "nobody works on it; what is left is done by: custody rewrap run"
    assert "rows/s" not in status[0]
    assert " left;" not in status[0]
    finished = await run(environ_of(database), "run")
    assert finished.code == 0
    assert finished.out.startswith("run 1 to env-v2: 200 re-wrapped")
    assert await opened(database, keyring()) == ledger


@pytest.mark.prove
async def test_a_command_and_two_workers_share_a_run(database: Database) -> None:
    ledger = await fill(database, 300)
    limits = ("--batch", "5", "--rate", "100", "--verify", "none")
    running = Command(environ_of(database), "rewrap", "run", *limits)
    await has_stored(database)
    rings = [keyring() for _ in range(2)]
    found = await asyncio.gather(*(rewrap(database, ring, batch=5, rate=100) for ring in rings))
    ended = await asyncio.to_thread(running.end)
    assert ended.code == 0, ended.err
    assert ended.out.startswith("run 1 to env-v2: 300 re-wrapped, 0 changed")
    assert [(one.id, one.done, one.moved) for one in found] == [(1, 300, 0)] * 2
    # Every UPDATE of a row counts its version: each was stored once.
    assert {row["row_version"] for row in (await rows_of(database)).values()} == {2}
    here = [ring.active.wrapped for ring in rings if isinstance(ring.active, CountingKek)]
    assert all(0 < wrapped.total() < 300 for wrapped in here)
    assert (here[0] + here[1]).most_common(1)[0][1] == 1
    assert await opened(database, keyring()) == ledger


@pytest.mark.prove
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"reads": (OLD, "env-v1"), "writes_uri": OLD, "writes_kek_id": "env-v1"},
            (
                "the daemon on far (process 7) can't read env:NEW?id=env-v2: list it there in "
                "CUSTODY_KEK or CUSTODY_OLD_KEKS and restart it"
            ),
        ),
        (
            {"writes_uri": OLD, "writes_kek_id": "env-v1"},
            (
                "the daemon on far (process 7) still writes under env:OLD: set CUSTODY_KEK to "
                "env:NEW?id=env-v2 there and restart it"
            ),
        ),
    ],
)
async def test_a_live_daemon_blocks_it(
    database: Database, changes: dict[str, object], complaint: str
) -> None:
    await fill(database, 2)
    await instance(database, **changes)
    done = await run(environ_of(database), "run")
    assert (done.code, done.complaint) == (75, complaint)
    assert await stamps(database) == {OLD_STAMP: 2}
    # Nor has it said that the new KEK is the active one.
    assert await states(database) == {}
    await database.execute(
        "UPDATE auth.custody_instances SET heartbeat_at = now() - interval '61 seconds'"
    )
    assert (await run(environ_of(database), "run")).code == 0


@pytest.mark.prove
async def test_a_converged_daemon_blocks_nothing(database: Database) -> None:
    await fill(database, 2)
    await instance(database)
    assert (await run(environ_of(database), "run")).code == 0


@pytest.mark.prove
async def test_another_run(database: Database) -> None:
    await fill(database, 2)
    await database.execute(
        "INSERT INTO auth.rewrap_runs (target, everything, started_by, sources, total)"
        " VALUES ('env-v3', false, 'far:1', '{}', 2)"
    )
    done = await run(environ_of(database), "run")
    assert (done.code, done.complaint) == (
        75,
        "run 1 to env-v3 is going on, started by far:1: wait for its end, or stop it there",
    )


# ── what it needs ─────────────────────────────────────────────────────────────


@pytest.mark.prove
@pytest.mark.parametrize("command", [("run",), ("run", "--dry-run"), ("status",)])
async def test_what_it_needs(database: Database, command: tuple[str, ...]) -> None:
    environ = environ_of(database)
    name = "CUSTODY_REWRAP_DATABASE_URL"
    gone = f"postgresql://custody_rewrap:x@127.0.0.1:{free_port()}/x"
    for url, code, part in (
        ("", 78, f"{name} must be set"),
        (gone, 69, "no connection to the database"),
        (database.url("custody_app"), 78, "is not custody_rewrap nor a member of it"),
        (database.url("postgres"), 78, "superuser"),
    ):
        done = await run({**environ, name: url}, *command)
        assert done.code == code
        assert part in done.complaint


async def test_keks_that_cannot_be_used(database: Database) -> None:
    environ = environ_of(database)
    for change, code, part in (
        ({"NEW": ""}, 78, "neither NEW nor NEW_FILE is set"),
        ({"NEW": "abc"}, 78, "base64"),
        ({"CUSTODY_KEK": "vault:transit/none"}, 78, "VAULT_TOKEN"),
    ):
        done = await run({**environ, **change}, "run")
        assert done.code == code, done.err
        assert part in done.complaint


@pytest.mark.prove
async def test_a_wrong_old_key(database: Database) -> None:
    await fill(database, 3)
    done = await run({**environ_of(database), "OLD": NEW_KEY}, "run")
    assert done.code == 78
    assert "opens none of the 3 rows" in done.complaint
    assert [row["quarantined_at"] for row in (await rows_of(database)).values()] == [None] * 3


@pytest.mark.prove
async def test_a_kms_that_is_down_at_the_beginning(database: Database) -> None:
    environ = environ_of(database) | {
        "CUSTODY_KEK": "vault:transit/key",
        "VAULT_ADDR": f"http://127.0.0.1:{free_port()}",
        "VAULT_TOKEN": "hvs.none",
    }
    done = await run(environ, "run")
    assert done.code == 69
    assert "vault:transit/key" in done.complaint


def test_usage() -> None:
    for arguments in (("--batch", "0"), ("--batch", "5001"), ("--rate", "-1"), ("--verify", "no")):
        assert custody({}, "rewrap", "run", *arguments).code == 2


# ── status ────────────────────────────────────────────────────────────────────


@pytest.mark.prove
async def test_status(database: Database) -> None:
    assert (await run(environ_of(database), "status")).out == "no run yet, and no row\n"
    await fill(database, 20)
    await database.execute(DAMAGE, ["user-000003"])
    await rewrap(database, keyring())
    await database.execute(
        "INSERT INTO auth.rewrap_runs (target, everything, started_by, sources, total)"
        " VALUES ('env-v3', false, 'far:1', '{env-v2}', 30)"
    )
    await database.execute(
        "UPDATE auth.rewrap_runs SET done = 10, heartbeat_at = started_at + interval '2 s'"
        " WHERE id = 2"
    )
    done = await run(environ_of(database), "status")
    assert (done.code, done.err) == (0, "")
    first, second, *rest = done.out.splitlines()
    assert first.startswith(
        "run 2 running: 10 of 30 to env-v3, 0 changed by their users, 0 set aside, 5 rows/s, "
        "4 s left; began "
    )
    assert second.startswith("run 1 failed: 20 of 20 to env-v2, 0 changed by their users, 1 set")
    assert rest == [
        "env-v1: 1 rows, 0 not sealed, 1 set aside",
        "env-v2: 19 rows, 0 not sealed, 0 set aside",
    ]
    said = json.loads((await run(environ_of(database), "status", "--json")).out)
    assert [one["id"] for one in said["runs"]] == [2, 1]
    assert said["runs"][0] | {"started_at": "", "heartbeat_at": ""} == {
        "id": 2,
        "state": "running",
        "target": "env-v3",
        "sources": ["env-v2"],
        "everything": False,
        "rotation": "shallow",
        "data_key": None,
        "total": 30,
        "done": 10,
        "moved": 0,
        "failed": 0,
        "rows_a_second": 5,
        "seconds_left": 4,
        "started_by": "far:1",
        "started_at": "",
        "heartbeat_at": "",
        "ended_at": None,
    }
    assert said["rows"]["env-v1"] == {
        "wraps": 1,
        "format_1": 0,
        "quarantined": 1,
        "old_format": 0,
        "legacy": 0,
    }
    assert said["legacy_rows"] == {"wraps": 0, "zero_knowledge": 0}


@pytest.mark.prove
async def test_a_run_that_was_stopped_is_said_to_be(database: Database) -> None:
    """At once, by Ctrl-C too; and whoever begins with another aim need not wait."""
    await fill(database, 200)
    running = Command(environ_of(database), "rewrap", "run", "--rate", "40")
    await has_stored(database)
    said = json.loads((await run(environ_of(database), "status", "--json")).out)["runs"][0]
    assert said["state"] == "running"
    running.process.send_signal(signal.SIGINT)
    assert (await asyncio.to_thread(running.end)).code == 75
    said = json.loads((await run(environ_of(database), "status", "--json")).out)["runs"][0]
    assert (said["state"], said["rows_a_second"], said["seconds_left"]) == ("stopped", None, None)
    assert said["ended_at"] is not None
    back = {"CUSTODY_KEK": f"{OLD}?id=env-v1", "CUSTODY_OLD_KEKS": NEW}
    assert (await run(environ_of(database) | back, "run")).code == 0
    assert (await stamps(database)).keys() == {OLD_STAMP}


@pytest.mark.prove
async def test_a_run_that_others_work_on_goes_on(database: Database) -> None:
    await fill(database, 400)
    limits = ("--batch", "10", "--rate", "100")
    both = [Command(environ_of(database), "rewrap", "run", *limits) for _ in range(2)]
    owners = "SELECT count(DISTINCT split_part(owner, ':', 2)) = 2 FROM auth.rewrap_claims"
    await eventually(lambda: database.value(owners), 30)
    both[0].process.send_signal(signal.SIGINT)
    assert (await asyncio.to_thread(both[0].end)).code == 75
    status = (await run(environ_of(database), "status")).out
    assert status.startswith("run 1 running: ")
    both[1].process.send_signal(signal.SIGINT)
    assert (await asyncio.to_thread(both[1].end)).code == 75
    assert (await run(environ_of(database), "status")).out.startswith("run 1 stopped: ")


@pytest.mark.prove
async def test_a_run_whose_process_was_killed_is_stopped(database: Database) -> None:
    """Its record says that it goes on: what decides is whether somebody looks after a claim."""
    await database.execute(
        "INSERT INTO auth.rewrap_runs (target, everything, started_by, sources, total)"
        " VALUES ('env-v2', false, 'far:1', '{env-v1}', 30)"
    )
    await database.execute(
        "INSERT INTO auth.rewrap_claims (run_id, owner, kek_id, format, above, up_to)"
        " VALUES (1, 'far:1:0', 'env-v1', 2, '', 'z')"
    )
    # As long as a KMS takes for a batch, whoever works on it has nothing to say of the run.
    await database.execute(
        "UPDATE auth.rewrap_runs SET heartbeat_at = now() - interval '20 seconds'"
    )
    assert (await run(environ_of(database), "status")).out.startswith("run 1 running: ")
    await database.execute(
        "UPDATE auth.rewrap_claims SET heartbeat_at = now() - interval '16 seconds'"
    )
    assert (await run(environ_of(database), "status")).out.startswith("run 1 stopped: ")


@pytest.mark.prove
async def test_nights_without_work_do_not_fill_the_list(database: Database) -> None:
    await fill(database, 3)
    await rewrap(database, keyring())
    for _ in range(12):
        await rewrap(database, keyring())
    said = json.loads((await run(environ_of(database), "status", "--json")).out)
    assert [(one["id"], one["done"]) for one in said["runs"]] == [(13, 0), (1, 3)]


@pytest.mark.prove
async def test_times_are_to_the_second(database: Database) -> None:
    await fill(database, 1)
    await rewrap(database, keyring())
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.search(rf"; began {time} by ", (await run(environ_of(database), "status")).out)
    (one,) = json.loads((await run(environ_of(database), "status", "--json")).out)["runs"]
    for name in ("started_at", "heartbeat_at", "ended_at"):
        assert re.fullmatch(time, one[name])


# ── retire ────────────────────────────────────────────────────────────────────


@pytest.mark.prove
async def test_retire_after_a_clean_run(database: Database) -> None:
    await fill(database, 5)
    environ = environ_of(database)
    await instance(database, id="i2", writes_uri=OLD, writes_kek_id="env-v1")
    await register(database, "env-v1", old_kek().fingerprint("env-v1"))
    await database.execute("UPDATE auth.custody_instances SET writes_uri = $1", NEW)
    await database.execute("UPDATE auth.custody_instances SET writes_kek_id = 'env-v2'")
    assert (await run(environ, "run")).code == 0
    await database.execute("UPDATE auth.custody_instances SET writes_kek_id = 'env-v1'")
    assert await retire(database, "env-v1") == "written"
    refused = await asyncio.to_thread(custody, environ, "kek", "retire", "env-v1")
    assert (refused.code, refused.complaint) == (
        1,
        (
            "a live daemon still wraps under env-v1; set CUSTODY_KEK there to another KEK and "
            "restart it"
        ),
    )
    await database.execute("UPDATE auth.custody_instances SET writes_kek_id = 'env-v2'")
    done = await asyncio.to_thread(custody, environ, "kek", "retire", "env-v1")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "env-v1 is retired: nothing can be wrapped under it again",
        "seen then: 0 rows under it, 0 of them set aside",
        (
            "  last run: 1 to env-v2, shallow, done: 5 re-wrapped, 0 changed by their users "
            "meanwhile, 0 set aside"
        ),
        "  no deep run: whoever had this KEK may know the data key that rows are sealed with",
        "  the daemon on far (process 7) writes under env-v2",
    ]
    listed = await asyncio.to_thread(custody, environ, "kek", "list", "--json")
    found = {one["kek_id"]: one["retirement"] for one in json.loads(listed.out)}
    assert found["env-v2"] is None
    assert found["env-v1"]["instances"] == [{"host": "far", "process": 7, "writes": "env-v2"}]
    assert found["env-v1"]["last_run"]["done"] == 5


@pytest.mark.prove
async def test_a_deep_run_by_the_command(database: Database) -> None:
    await fill(database, 5)
    environ = environ_of(database)
    foreseen = await run(environ, "run", "--deep", "--dry-run")
    assert foreseen.out.startswith("5 rows to bring to env-v2 and a new data key, from env-v1; in ")
    said = json.loads((await run(environ, "run", "--deep", "--dry-run", "--json")).out)
    assert (said["rotation"], said["total"]) == ("deep", 5)
    assert await database.value("SELECT count(*) FROM auth.encryption_data_keys") == 1
    done = await run(environ, "run", "--deep")
    (key,) = await database.fetch("SELECT id, ended FROM auth.encryption_data_keys")
    assert done.code == 0
    assert f"0 set aside; deep: rows are sealed with {key['id']}; in " in done.out
    assert done.complaint == (
        f"the data key {KEY_ID} is ended. It was wrapped under env-v1: if one of these was "
        "compromised, retire it and take it out of the configuration of every daemon"
    )
    assert "run 1 deep done: 5 of 5 to env-v2" in (await run(environ, "status")).out
    retired = await asyncio.to_thread(custody, environ, "kek", "retire", "env-v1")
    assert "  last run: 1 to env-v2, deep, done: 5 re-wrapped" in retired.out
    assert f"its data key is {key['id']}" in retired.out
    # All is as it should be; another one makes another one.
    said = json.loads((await run(environ, "run", "--json")).out)
    assert (said["rotation"], said["data_key"], said["ended_data_keys"]) == ("shallow", None, [])
    said = json.loads((await run(environ, "run", "--deep", "--json")).out)
    assert (said["rotation"], said["ended_data_keys"]) == ("deep", [key["id"]])
