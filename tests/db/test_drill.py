"""``custody kek drill``: the second root alone opens every data key, or says which it does not."""

import asyncio
import json
import os
import stat
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from custody.datakeys.drill import Drilled, DrilledKey, drill
from custody.datakeys.ring import Ring
from custody.db.engine import Dsn, open_engine
from kek_backends.base import KekBackend, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import KekError, KeyMissing, Transient
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri
from tests.datakeys import KEY, KEY_ID
from tests.db.command import Done, custody
from tests.db.kek_registry import register
from tests.failing_kek import FailingKek
from tests.leaks import remember
from tests.ports import free_port
from tests.rewrap.kit import CountingKek, old_kek
from tests.sealed_rows import data_key_of
from tests.servers import Database

SECOND_KEY = remember("YW5vdGhlciBzZWNvbmQgcm9vdCBvZiB0aGVzZTogMTE=")
SECOND = "env:SECOND?id=second"
ADD = "INSERT INTO auth.encryption_data_keys (id, seal) VALUES ($1, $2)"
PUT = "INSERT INTO auth.encryption_data_key_wraps VALUES ($1, $2, $3, $4, 3)"
OTHER_ID = "dk-01932e00000070008000000000000009"
WRONG = "it does not open under second: custody rewrap run makes another wrap"
FORGET = "or, if the record is not yours: custody kek forget"


def second() -> CountingKek:
    return CountingKek("second", SECOND_KEY)


@pytest.fixture
async def environ(database: Database) -> dict[str, str]:
    """A data key under a first KEK, which this process has nothing of, and under the second."""
    await data_key_of(database, old_kek())
    await put(database, KEY_ID, await second().wrap(Binding.of_data_key(KEY_ID), KEY))
    return {
        "CUSTODY_KEK": "vault:transit/gone",
        "CUSTODY_SECOND_KEK": SECOND,
        "SECOND": SECOND_KEY,
        "CUSTODY_REWRAP_DATABASE_URL": database.url("custody_rewrap"),
    }


async def put(database: Database, key_id: str, wrap: Wrap) -> None:
    await database.execute(PUT, key_id, wrap.kek_id, wrap.wrapped_mk, wrap.wrap_iv)


async def run(environ: dict[str, str], *words: str) -> Done:
    done = await asyncio.to_thread(custody, environ, "kek", "drill", *words)
    assert SECOND_KEY not in done.out + done.err
    return done


async def lines(environ: dict[str, str], code: int) -> list[str]:
    done = await run(environ)
    assert done.code == code, done.err
    return done.out.splitlines()


async def test_every_data_key_opens(environ: dict[str, str]) -> None:
    assert await lines(environ, 0) == [
        f"data key {KEY_ID}: opens under second",
        f"the second root, {SECOND}, alone opens 1 of 1 data keys",
    ]
    done = await run(environ, "--json")
    assert (done.code, json.loads(done.out)) == (
        0,
        {
            "second_kek": SECOND,
            "kek_id": "second",
            "success": True,
            "data_keys": [{"id": KEY_ID, "opens": True, "problem": None}],
            "problems": [],
        },
    )


async def test_it_reads_as_the_daemons_role_too(
    environ: dict[str, str], database: Database
) -> None:
    del environ["CUSTODY_REWRAP_DATABASE_URL"]
    environ["CUSTODY_DATABASE_URL"] = database.url("custody_app")
    assert len(await lines(environ, 0)) == 2


async def test_it_changes_nothing(environ: dict[str, str], database: Database) -> None:
    await run(environ)
    assert await database.value("SELECT count(*) FROM auth.encryption_keks") == 0


# ── what is found ─────────────────────────────────────────────────────────────


async def spoil(database: Database, how: str) -> None:
    """Do to the wrap under the second root what somebody may who writes the database."""
    if how == "missing":
        await database.execute("DELETE FROM auth.encryption_data_key_wraps WHERE kek_id = 'second'")
        return
    wraps = {
        "junk": Wrap("junk", "", 3, "second"),
        "another key": await second().wrap(Binding.of_data_key(KEY_ID), bytes(32)),
        "of another data key": await second().wrap(Binding.of_data_key(OTHER_ID), KEY),
        "of a user": await second().wrap(Binding(KEY_ID), KEY),
        "of another KEK": (await old_kek().wrap(Binding.of_data_key(KEY_ID), KEY)),
    }
    await database.execute(
        "UPDATE auth.encryption_data_key_wraps SET wrapped_key = $1, wrap_iv = $2"
        " WHERE kek_id = 'second'",
        wraps[how].wrapped_mk,
        wraps[how].wrap_iv,
    )


@pytest.mark.usefixtures("environ")
@pytest.mark.parametrize(
    "how", ["junk", "another key", "of another data key", "of a user", "of another KEK"]
)
async def test_a_wrap_that_does_not_open(database: Database, how: str) -> None:
    await spoil(database, how)
    found = await drilled(database, second())
    assert found.keys == (DrilledKey(KEY_ID, f"{WRONG}; {FORGET} {KEY_ID}"),)
    assert (found.is_success, found.only_waits) == (False, False)


async def test_a_wrap_that_is_missing(environ: dict[str, str], database: Database) -> None:
    await spoil(database, "missing")
    assert await lines(environ, 1) == [
        f"data key {KEY_ID}: it has no wrap under {SECOND}: custody rewrap run; {FORGET} {KEY_ID}",
        f"the second root, {SECOND}, alone opens 0 of 1 data keys",
    ]


async def test_a_record_of_somebody_else(environ: dict[str, str], database: Database) -> None:
    """He has no KEK, and writes what he likes: it is found, and the others open all the same."""
    await database.execute(ADD, OTHER_ID, "1.\x1b[31m" + "é" * 40)
    await database.execute(PUT, OTHER_ID, "second", "é", "\x01")
    done = await run(environ)
    assert (done.code, "Traceback" in done.err, "\x1b" in done.out) == (1, False, False)
    assert done.out.splitlines() == [
        f"data key {KEY_ID}: opens under second",
        f"data key {OTHER_ID}: {WRONG}; {FORGET} {OTHER_ID}",
        f"the second root, {SECOND}, alone opens 1 of 2 data keys",
    ]
    assert json.loads((await run(environ, "--json")).out)["success"] is False


@pytest.mark.usefixtures("environ")
@pytest.mark.parametrize("key_id", ["dk-junk", "x" * 500, "dk-\x1b[31m\n", ""])
async def test_a_record_that_no_constraint_has_seen(database: Database, key_id: str) -> None:
    """The command refuses such a database; the drill itself fears no bytes either."""
    await database.execute(
        "ALTER TABLE auth.encryption_data_keys DROP CONSTRAINT encryption_data_keys_id"
    )
    await database.execute(ADD, key_id, "1.no")
    await database.execute(PUT, key_id, "second", "é", "\x01")
    found = await drilled(database, second())
    opens = {key.id: key.problem is None for key in found.keys}
    assert (opens, found.only_waits) == ({KEY_ID: True, key_id: False}, False)


async def drilled(database: Database, backend: KekBackend) -> Drilled:
    async with open_engine(Dsn(database.url("custody_app")), pool_size=1) as engine:
        return await drill(engine, backend, Ring(engine, Keyring(backend), 3600, 86_400))


async def test_one_that_is_marked_as_lost(environ: dict[str, str], database: Database) -> None:
    await database.execute("UPDATE auth.encryption_data_keys SET lost_at = now()")
    (said, _) = await lines(environ, 1)
    assert said == f"data key {KEY_ID}: it is marked as lost: restore its record; {FORGET} {KEY_ID}"


async def test_there_is_none(environ: dict[str, str], database: Database) -> None:
    await database.execute("DELETE FROM auth.encryption_data_keys")
    done = await run(environ)
    assert (done.code, done.out) == (
        1,
        f"the second root, {SECOND}, alone opens 0 of 0 data keys\n",
    )
    assert done.complaint == "there is no data key; the first boot of a daemon makes it"


async def test_other_material_is_on_record(environ: dict[str, str], database: Database) -> None:
    """As after a key that was put in place of another: nothing that is sealed says so here."""
    await register(database, "second", "another fingerprint")
    done = await run(environ)
    assert done.code == 1
    assert "names other key material, and its seal does not hold" in done.complaint
    assert "alone opens 1 of 1 data keys" in done.out


# ── what is down, or not there ────────────────────────────────────────────────


def failing() -> FailingKek:
    uri = KekUri.parse(SECOND)
    key = b"another second root of these: 11"
    return FailingKek(uri=uri, kek_id="second", key=key, development=False)


@pytest.mark.usefixtures("environ")
@pytest.mark.parametrize("failure", [Transient("away"), KeyMissing("deleted"), None], ids=repr)
async def test_its_kms_does_not_open_it_now(
    database: Database, failure: KekError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("custody.datakeys.records._UNWRAP_SECONDS", 0.1)
    backend = failing()
    backend.failure, backend.hangs = failure, failure is None
    found = await drilled(database, backend)
    assert (found.is_success, found.only_waits, found.opened) == (False, True, 0)
    assert str(failure or "no answer in time") in (found.keys[0].problem or "")


@pytest.mark.usefixtures("environ")
async def test_its_kms_does_not_say_what_it_has(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("custody.datakeys.drill._REFRESH_SECONDS", 0.1)
    backend = failing()
    monkeypatch.setattr(backend, "refresh", asyncio.Event().wait)
    with pytest.raises(Transient, match="no answer in time"):
        await drilled(database, backend)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"CUSTODY_SECOND_KEK": ""}, 78, "CUSTODY_SECOND_KEK must be set: URI of a KEK that data"),
        ({"SECOND": ""}, 78, "CUSTODY_SECOND_KEK: KEK env:SECOND?id=second"),
        ({"CUSTODY_SECOND_KEK": "vault:transit/second"}, 69, "vault:transit/second"),
        ({"CUSTODY_REWRAP_DATABASE_URL": "postgresql://a:b@127.0.0.1:9/c"}, 69, "127.0.0.1:9"),
        ({"CUSTODY_REWRAP_DATABASE_URL": ""}, 78, "or CUSTODY_DATABASE_URL must be set"),
    ],
)
async def test_what_is_not_there(
    environ: dict[str, str],
    tmp_path: Path,
    changes: dict[str, str],
    code: int,
    words: str,
) -> None:
    kms = {"VAULT_ADDR": f"http://127.0.0.1:{free_port()}", "VAULT_TOKEN": "t"}
    path = tmp_path / "drill.prom"
    done = await run(environ | kms | changes, "--textfile", str(path))
    assert (done.code, done.out) == (code, "")
    assert words in done.complaint
    # Whoever watches the metrics hears of it.
    assert metrics(path)["custody_drill_success"] == 0


# ── the metrics ───────────────────────────────────────────────────────────────


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def metrics(path: Path) -> dict[str, float]:
    families = text_string_to_metric_families(path.read_text("utf-8"))
    return {sample.name: sample.value for family in families for sample in family.samples}


async def test_metrics(environ: dict[str, str], database: Database, tmp_path: Path) -> None:
    path, before = tmp_path / "custody_drill.prom", time.time()
    umask = os.umask(0o077)
    try:
        assert (await run(environ, "--textfile", str(path))).code == 0
    finally:
        os.umask(umask)
    found = metrics(path)
    assert before <= found.pop("custody_drill_timestamp_seconds") <= time.time()
    assert found == {"custody_drill_success": 1, "custody_drill_data_keys": 1}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    await spoil(database, "junk")
    assert (await run(environ, "--textfile", str(path))).code == 1
    found = metrics(path)
    assert (found["custody_drill_success"], found["custody_drill_data_keys"]) == (0, 0)
    assert names(tmp_path) == [path.name]


async def test_metrics_that_can_not_be_written(environ: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "drill.prom"
    done = await run(environ, "--textfile", str(path))
    assert (done.code, done.complaint) == (
        74,
        f"{path} could not be written: No such file or directory",
    )
    assert "alone opens 1 of 1 data keys" in done.out
    (tmp_path / "folder.prom").mkdir()
    assert (await run(environ, "--textfile", str(tmp_path / "folder.prom"))).code == 74
    assert names(tmp_path) == ["folder.prom"]
    wrong = await run(environ, "--textfile", str(tmp_path / "drill.txt"))
    assert (wrong.code, "*.prom alone" in wrong.err) == (2, True)
